package bundle

import (
	"reflect"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

// A manifest as ec2-ami-tools writes it, and its mapping as euca2ools reads one.
const wholeManifest = `<?xml version='1.0'?>
<manifest><version>2007-10-10</version>
<bundler><name>ec2-ami-tools</name><version>1.5</version><release>7</release></bundler>
<machine_configuration><architecture>x86_64</architecture>
<block_device_mapping><mapping><virtual>ami</virtual><device>sda1</device></mapping>
<mapping><device>/dev/sda1</device><virtual>root</virtual></mapping></block_device_mapping>
<kernel_id>aki-1</kernel_id><ramdisk_id>ari-1</ramdisk_id>
<product_codes><product_code>A1</product_code><product_code>B2</product_code></product_codes></machine_configuration>
<image><name>web &amp; more</name><user>123456789012</user><type>kernel</type><kernel_name>vmlinuz</kernel_name>
<ancestry><ancestor_ami_id>ami-1</ancestor_ami_id><ancestor_ami_id>ami-2</ancestor_ami_id></ancestry>
<digest algorithm='SHA1'>0102030000000000000000000000000000000000</digest><size>512</size><bundled_size>48</bundled_size>
<ec2_encrypted_key algorithm='AES-128-CBC'>01</ec2_encrypted_key><user_encrypted_key algorithm='AES-128-CBC'>02</user_encrypted_key>
<ec2_encrypted_iv>03</ec2_encrypted_iv><user_encrypted_iv>04</user_encrypted_iv>
<parts count='2'>
<part index='1'><filename>w.part.1</filename><digest algorithm='SHA1'>0500000000000000000000000000000000000000</digest></part>
<part index='0'><filename>w.part.0</filename><digest algorithm='SHA1'>0600000000000000000000000000000000000000</digest></part>
</parts></image><signature>0708</signature><unknown><version>9</version></unknown></manifest>`

// Every element is read, and is the same after it was written.
func TestManifestElements(t *testing.T) {
	want := &Manifest{
		Version: "2007-10-10", Bundler: Bundler{"ec2-ami-tools", "1.5", "7"},
		Architecture: "x86_64", BlockDevices: []Mapping{{"ami", "sda1"}, {"root", "/dev/sda1"}},
		ProductCodes: []string{"A1", "B2"}, KernelID: "aki-1", RamdiskID: "ari-1",
		Name: "web & more", User: "123456789012", Type: Kernel, KernelName: "vmlinuz", Ancestors: []string{"ami-1", "ami-2"},
		Digest: [20]byte{1, 2, 3}, Size: 512, BundledSize: 48, Algorithm: "AES-128-CBC",
		Cloud: crypt.Sealed{Key: []byte{1}, IV: []byte{3}}, Owner: crypt.Sealed{Key: []byte{2}, IV: []byte{4}},
		Parts:     []Part{{"w.part.0", [20]byte{6}}, {"w.part.1", [20]byte{5}}},
		Signature: []byte{7, 8},
	}
	spellings := strings.NewReplacer("block_device_mapping>", "block_device_mappings>", "mapping>", "block_device_mapping>")
	for _, text := range []string{wholeManifest, spellings.Replace(wholeManifest), strings.Replace(wholeManifest, "2007-10-10", "2007-08-29", 1)} {
		m, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		m.signed, m.Version = nil, Version
		if !reflect.DeepEqual(m, want) {
			t.Errorf("read %+v\nwant %+v", m, want)
		}
		again, err := m.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		if m, err = Parse(again); err != nil {
			t.Fatal(err)
		}
		m.signed, m.Signature = nil, want.Signature
		if !reflect.DeepEqual(m, want) {
			t.Errorf("written as %+v\nwant %+v", m, want)
		}
	}
	bad := *want
	bad.Algorithm = "DES"
	if _, err := bad.Encode(nil); disk.KindOf(err) != disk.Invalid {
		t.Errorf("written with another cipher: %v", err)
	}
	bad = *want
	bad.Parts = []Part{{"a/b", [20]byte{1}}}
	if _, err := bad.Encode(nil); disk.KindOf(err) != disk.Invalid {
		t.Errorf("written with a folder: %v", err)
	}
}
