package bundle

import (
	"bytes"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

// certificates writes key.pem, cert.pem and pub.pem of a user to dir, and reads the
// key.
func certificates(t *testing.T, dir string) *rsa.PrivateKey {
	t.Helper()
	need(t, "openssl")
	shell(t, dir, `openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=user -keyout key.pem -out cert.pem
		openssl x509 -in cert.pem -noout -pubkey -out pub.pem`)
	key, err := crypt.ParsePrivateKey(readFile(t, dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What is bundled here is taken apart by the programs that the format is made of,
// and by Python's tarfile, which euca2ools uses: with nothing but the manifest, the
// parts and the private key.
func TestTakenApartByPrograms(t *testing.T) {
	need(t, "openssl", "gzip", "pigz", "tar", "python3")
	dir := t.TempDir()
	key := certificates(t, dir)
	for name, img := range disks() {
		if testing.Short() && name != "odd" && name != "many parts" {
			continue
		}
		b := bundleOf(t, img, false)
		if err := b.m.Seal(b.secret, &keys().cloud.PublicKey, &key.PublicKey); err != nil {
			t.Fatal(err)
		}
		text, err := b.m.Encode(key)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir, "manifest.xml", text)
		for part, p := range b.parts {
			writeFile(t, dir, part, p)
		}
		shell(t, dir, `
			leaf() { grep -o "<$1[^>]*>[^<]*" manifest.xml | sed 's/.*>//'; }
			unhex() { tr a-f A-F | basenc --base16 -d; }
			unseal() { leaf "$1" | unhex | openssl pkeyutl -decrypt -inkey key.pem; }
			grep -o '<filename>[^<]*' manifest.xml | sed 's/.*>//' >parts
			cat $(cat parts) >sealed
			[ "$(stat -c %s sealed)" = "$(leaf bundled_size)" ]
			openssl enc -d -aes-128-cbc -K $(unseal user_encrypted_key) -iv $(unseal user_encrypted_iv) -in sealed -out tar.gz
			gzip -dc <tar.gz >tar
			pigz -dc <tar.gz | cmp - tar
			[ "$(sha1sum <tar | cut -d' ' -f1)" = "$(grep -o '<image>.*' manifest.xml | grep -o '<digest[^>]*>[^<]*' | head -1 | sed 's/.*>//')" ]
			[ "$(tar tf tar)" = web ]
			tar xOf tar >disk
			python3 - <<-'END'
			import shutil, tarfile
			t = tarfile.open(mode='r|gz', fileobj=open('tar.gz', 'rb'))
			shutil.copyfileobj(t.extractfile(t.next()), open('python', 'wb'))
			END
			cmp disk python
			[ "$(stat -c %s disk)" = "$(leaf size)" ]
			sha1sum $(cat parts) | cut -d' ' -f1 >sums
			grep -o '</filename><digest[^>]*>[^<]*' manifest.xml | sed 's/.*>//' | cmp - sums
			grep -o '<machine_configuration>.*</image>' manifest.xml | tr -d '\n' >signed
			# euca2ools of old signs what a library makes of the elements.
			python3 - <<-'END' | cmp - signed
			import sys, xml.dom.minidom
			m = xml.dom.minidom.parse('manifest.xml').documentElement
			for name in 'machine_configuration', 'image':
			    sys.stdout.write(m.getElementsByTagName(name)[0].toxml())
			END
			leaf signature | unhex >signature
			openssl dgst -sha1 -verify pub.pem -signature signature signed`)
		if !bytes.Equal(readFile(t, dir, "disk"), content(t, img)) {
			t.Errorf("%s: the disk of the programs is another", name)
		}
	}
}

// The ways in which programs have made bundles: how they pack, and how they name
// and write what they made.
func packers() map[string]string {
	return map[string]string{
		"ec2-ami-tools":  `tar --sparse --dereference -cf - disk | tee >(sha1sum >tar.sum) | gzip -9`,
		"euca2ools":      `tar -cf - disk | tee >(sha1sum >tar.sum) | pigz -c`,
		"euca2ools 1":    `tar -cf - -S disk | tee >(sha1sum >tar.sum) | gzip -c`,
		"pax":            `tar --format=posix -cf - disk | tee >(sha1sum >tar.sum) | gzip -1`,
		"pax sparse 1.0": `tar --format=posix --sparse -cf - disk | tee >(sha1sum >tar.sum) | gzip`,
		"pax sparse 0.1": `tar --format=posix --sparse-version=0.1 --sparse -cf - disk | tee >(sha1sum >tar.sum) | gzip`,
		"pax sparse 0.0": `tar --format=posix --sparse-version=0.0 --sparse -cf - disk | tee >(sha1sum >tar.sum) | gzip`,
		"ustar":          `tar --format=ustar -cf - disk | tee >(sha1sum >tar.sum) | gzip`,
		"v7":             `tar --format=v7 -b 1 -cf - disk | tee >(sha1sum >tar.sum) | gzip`,
		"long name":      `ln disk $(printf %0150d 1) 2>/dev/null || true; tar -cf - $(printf %0150d 1) | tee >(sha1sum >tar.sum) | gzip`,
		"gzip members":   `tar -cf tar disk; sha1sum tar >tar.sum; (head -c 5000 tar | gzip; tail -c +5001 tar | gzip)`,
		"python's tar":   `python3 -c 'import sys,tarfile; t=tarfile.open(mode="w|",fileobj=sys.stdout.buffer,format=tarfile.GNU_FORMAT); i=t.gettarinfo("disk"); i.name="image"; t.addfile(i,open("disk","rb")); t.close()' | tee >(sha1sum >tar.sum) | gzip`,
		"stored":         `tar -cf - disk | tee >(sha1sum >tar.sum) | pigz -0`,
		"small parts":    `tar -cf - disk | tee >(sha1sum >tar.sum) | gzip | cat`,
		"independent":    `tar -cf - disk | tee >(sha1sum >tar.sum) | pigz --independent -b 128`,
	}
}

// theirs makes a bundle of the file disk in dir with programs, and gives it with the
// text of its manifest.
func theirs(t *testing.T, dir, pack string, partSize int) made {
	t.Helper()
	s := crypt.AES128CBC{}.NewSecret()
	shell(t, dir, `rm -f img.part.*
		{ `+pack+`; } | openssl enc -e -aes-128-cbc -K $KEY -iv $IV | split -d -a 3 -b $SIZE - img.part.
		for i in $(seq 50); do [ -s tar.sum ] && break; sleep 0.1; done
		printf %s $KEY | openssl pkeyutl -encrypt -certin -inkey cert.pem -out key.sealed
		printf %s $IV | openssl pkeyutl -encrypt -certin -inkey cert.pem -out iv.sealed`,
		"KEY="+hex.EncodeToString(s.Key), "IV="+hex.EncodeToString(s.IV), fmt.Sprintf("SIZE=%d", partSize))
	names, err := filepath.Glob(filepath.Join(dir, "img.part.*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	st, err := os.Stat(filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	b := made{secret: s, parts: store{}}
	var parts strings.Builder
	sum := 0
	for i, name := range names {
		p := readFile(t, dir, filepath.Base(name))
		b.parts[filepath.Base(name)] = p
		sum += len(p)
		digest := bytes.Fields(shell(t, dir, "sha1sum "+filepath.Base(name)))[0]
		fmt.Fprintf(&parts, "<part index='%d'>\n <filename>%s</filename>\n <digest algorithm='SHA1'>%s</digest>\n</part>\n", i, filepath.Base(name), digest)
	}
	sealed := func(name string) string { return hex.EncodeToString(readFile(t, dir, name)) }
	machine := "<machine_configuration>\n<architecture>x86_64</architecture>\n</machine_configuration>"
	image := fmt.Sprintf("<image><name>img</name><user>123456789012</user><type>machine</type>"+
		"<digest algorithm='SHA1'>%s</digest><size>%d</size><bundled_size>%d</bundled_size>"+
		"<ec2_encrypted_key algorithm='AES-128-CBC'/><user_encrypted_key algorithm='AES-128-CBC'>%s</user_encrypted_key>"+
		"<ec2_encrypted_iv/><user_encrypted_iv>%s</user_encrypted_iv><parts count='%d'>%s</parts></image>",
		bytes.Fields(readFile(t, dir, "tar.sum"))[0], st.Size(), sum, sealed("key.sealed"), sealed("iv.sealed"), len(names), parts.String())
	writeFile(t, dir, "signed", []byte(machine+image))
	signature := shell(t, dir, "openssl dgst -sha1 -sign key.pem signed")
	b.text = []byte("<?xml version='1.0'?><manifest><version>2007-10-10</version><bundler><name>ec2-ami-tools</name><version>1.5</version><release>7</release></bundler>" +
		machine + image + "<signature>" + hex.EncodeToString(signature) + "</signature></manifest>")
	if b.m, err = Parse(b.text); err != nil {
		t.Fatal(err)
	}
	return b
}

// What programs have bundled is read here.
func TestReadsThoseOfPrograms(t *testing.T) {
	need(t, "openssl", "gzip", "pigz", "tar", "python3", "split")
	dir := t.TempDir()
	key := certificates(t, dir)
	want := noise(3<<20 + 4096*3)
	clear(want[100_000 : 1<<20])
	for i := 0; i < 60; i++ { // more runs than a header and one further block have
		clear(want[2<<20+i*16384+8192:][:8192])
	}
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(want); off += 4096 {
		if p := want[off : off+4096]; !isZero(p) {
			if _, err := f.WriteAt(p, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	quick := []string{"ec2-ami-tools", "euca2ools", "pax sparse 1.0", "small parts", "gzip members"}
	for name, pack := range packers() {
		if testing.Short() && !slices.Contains(quick, name) {
			continue
		}
		partSize := 1 << 20
		if name == "small parts" {
			partSize = 100_003 // in no multiple of the cipher's block
		}
		b := theirs(t, dir, pack, partSize)
		if err := b.m.Verify(&key.PublicKey); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var s spool
		err := InstanceStore{Account: "123456789012", Keys: []*rsa.PrivateKey{key}}.Run(t.Context(), b.text, b.parts.fetch, &s, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(s.p, want) {
			t.Errorf("%s: the disk is another", name)
		}
	}
	b := theirs(t, dir, "tar -cf tar disk; echo x >second; tar -rf tar second; sha1sum tar >tar.sum; gzip <tar", 1<<20)
	err = Unbundle(t.Context(), b.m, b.secret, b.parts.fetch, &spool{}, nil)
	wantError(t, err, disk.Malformed, `a second member "second"`)
}
