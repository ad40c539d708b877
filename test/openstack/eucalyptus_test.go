package openstack

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chromogenic/disk/disktest"
)

// A euca is a stand-in for a cloud of Eucalyptus (providers/internal/ec2test), as a
// process of its own: no real one was contacted.
type euca struct {
	in  io.Writer
	out *bufio.Scanner

	EC2      string `json:"ec2"`
	S3       string `json:"s3"`
	Cert     string `json:"cloud_cert"`
	Accounts []struct {
		Name      string `json:"name"`
		Number    string `json:"number"`
		AccessKey string `json:"access_key"`
		Secret    string `json:"secret_key"`
		Key       string `json:"private_key"`
		Cert      string `json:"cert"`
	} `json:"accounts"`
}

// standIn builds the program once, beside the one under test. It may import what is below
// providers/internal, and this package may not.
var standIn = sync.OnceValues(func() (string, error) {
	program, err := binary()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(program), "ec2test")
	if out, err := exec.Command("go", "build", "-C", "../..", "-o", path, "./providers/internal/ec2test/cmd").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the stand-in of Eucalyptus: %w: %s", err, out)
	}
	return path, nil
})

// startEuca starts one until the end of the test.
func startEuca(t *testing.T) *euca {
	t.Helper()
	need(t)
	path, err := standIn()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the stand-in of Eucalyptus: %v", err)
		}
	})
	e := &euca{in: in, out: bufio.NewScanner(out)}
	e.out.Buffer(nil, 1<<20)
	if !e.out.Scan() {
		t.Fatalf("the stand-in of Eucalyptus says nothing: %v", e.out.Err())
	}
	if err := json.Unmarshal(e.out.Bytes(), e); err != nil {
		t.Fatal(err)
	}
	return e
}

// ask has it do a thing.
func (e *euca) ask(t *testing.T, order, into any) {
	t.Helper()
	text, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.in.Write(append(text, '\n')); err != nil || !e.out.Scan() {
		t.Fatalf("ask the stand-in: %v, %v", err, e.out.Err())
	}
	var answer struct{ Error string }
	if err := json.Unmarshal(e.out.Bytes(), &answer); err != nil || answer.Error != "" {
		t.Fatalf("%s: %s, %v", text, answer.Error, err)
	}
	if into != nil {
		if err := json.Unmarshal(e.out.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
}

// keys are the objects of a bucket.
func (e *euca) keys(t *testing.T, bucket string) []string {
	t.Helper()
	var answer struct{ Keys []string }
	e.ask(t, map[string]any{"keys": bucket}, &answer)
	return answer.Keys
}

// eucarc writes that of an account, as the cloud gives it to its users.
func (e *euca) eucarc(t *testing.T, name string) (path, number string) {
	t.Helper()
	dir := t.TempDir()
	write := func(file, text string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range e.Accounts {
		if a.Name != name {
			continue
		}
		write("pk.pem", a.Key)
		write("cert.pem", a.Cert)
		write("cloud-cert.pem", e.Cert)
		write("eucarc", fmt.Sprintf(`EUCA_KEY_DIR=$(cd $(dirname ${BASH_SOURCE:-$0}); pwd -P)
export EC2_URL=%s
export S3_URL=%s
export AWS_ACCESS_KEY='%s'
export AWS_SECRET_KEY='%s'
export EC2_ACCOUNT_NUMBER='%s'
export EC2_PRIVATE_KEY=${EUCA_KEY_DIR}/pk.pem
export EC2_CERT=${EUCA_KEY_DIR}/cert.pem
export EUCALYPTUS_CERT=${EUCA_KEY_DIR}/cloud-cert.pem
`, e.EC2, e.S3, a.AccessKey, a.Secret, a.Number))
		return filepath.Join(dir, "eucarc"), a.Number
	}
	t.Fatalf("there is no account %s", name)
	return "", ""
}

// TestEucalyptus takes an image from Eucalyptus to OpenStack, and back, to another
// account, to a folder and from it: through the mount, by cp.
func TestEucalyptus(t *testing.T) {
	e, other := startEuca(t), startEuca(t)
	alice, number := e.eucarc(t, "alice")
	bob, _ := other.eucarc(t, "bob") // of another cloud, with another certificate
	guest, folder := disktest.Guest(t, nil), t.TempDir()
	sh(t, "cp", "--sparse=always", guest, filepath.Join(folder, "guest.raw"))
	in := install(t, cloud.clouds, "  euca: {type: eucalyptus, eucarc: "+alice+", clean: auto}\n  far: {type: eucalyptus, eucarc: "+bob+", clean: auto, index: true}\n"+
		"  a: {type: openstack, cloud: a, clean: auto}\n  folder: {type: local, images: "+folder+"}\n")
	a := login(t, "a")
	a.clear(t)
	m := in.mount(t)
	at := func(parts ...string) string { return filepath.Join(append([]string{m}, parts...)...) }

	// From a folder, as it is.
	sh(t, "cp", at("folder", "images", "guest.raw"), at("euca", "images", "guest.raw"))
	sameFile(t, at("euca", "images", "guest.raw"), guest)
	var listed []struct{ ID, Name string }
	if err := json.Unmarshal([]byte(in.run(t, "ls", "--json", "euca:images")), &listed); err != nil || len(listed) != 1 || !strings.HasPrefix(listed[0].ID, "emi-") {
		t.Fatalf("listed is %+v: %v", listed, err)
	}

	// The headline: by its id, to OpenStack, cleaned on the way.
	emi := listed[0].ID
	sh(t, "cp", at("euca", "images", emi+".raw"), at("a", "images")+"/")
	arrived := a.images(t)
	if len(arrived) != 1 || arrived[0].text("status") != "active" || arrived[0].text("disk_format") != "qcow2" {
		t.Fatalf("there are %+v", arrived)
	}
	name := arrived[0].text("name")
	wantSecret(t, at("a", "images", name+".raw"), false)
	saved := filepath.Join(t.TempDir(), "saved.qcow2")
	a.save(t, name, saved)
	raw := filepath.Join(t.TempDir(), "saved.raw")
	sh(t, "qemu-img", "convert", "-O", "raw", saved, raw)
	sameFile(t, at("a", "images", name+".raw"), raw)
	sh(t, "e2fsck", "-fn", raw)

	// As it is, byte by byte; and back.
	sh(t, "cp", at("euca", "images", "guest.raw"), at("a", "images.verbatim", "verbatim.raw"))
	sameFile(t, at("a", "images", "verbatim.raw"), guest)
	sh(t, "cp", at("a", "images", "verbatim.raw"), at("euca", "images.verbatim", "back.raw"))
	sameFile(t, at("euca", "images", "back.raw"), guest)

	// To an account of another cloud, for which it is encrypted anew.
	sh(t, "cp", at("euca", "images", "guest.raw"), at("far", "images.verbatim", "guest.raw"))
	sameFile(t, at("far", "images", "guest.raw"), guest)
	sh(t, "cp", at("euca", "images", "guest.raw"), at("far", "images", "clean.raw"))
	wantSecret(t, at("far", "images", "clean.raw"), false)

	// What has an index was read without a spool; of euca two images were fetched.
	if wholes, err := os.ReadDir(filepath.Join(in.state, "whole")); err != nil || len(wholes) != 2 {
		t.Errorf("%d images were fetched as a whole, %v", len(wholes), err)
	}

	// And to a folder.
	sh(t, "cp", at("far", "images", "guest.qcow2"), at("folder", "images", "home.qcow2"))
	sameFile(t, filepath.Join(folder, "home.raw"), guest) // as it is kept at its source

	// Removed with its bundle, and without.
	bucket := "chromogenic-" + number
	before := len(e.keys(t, bucket))
	in.run(t, "rm", "--yes", "euca:images/back")
	if n := len(e.keys(t, bucket)); n != before {
		t.Errorf("of %d objects %d are left, and none was to go", before, n)
	}
	in.run(t, "rm", "--yes", "--purge", "euca:images/guest")
	if n := len(e.keys(t, bucket)); n >= before || n == 0 {
		t.Errorf("of %d objects %d are left", before, n)
	}
}

// TestEucalyptusSet takes a partition with its kernel and ramdisk from Eucalyptus to
// OpenStack, where they are a set of AKI, ARI and AMI.
func TestEucalyptusSet(t *testing.T) {
	e := startEuca(t)
	admin, _ := e.eucarc(t, "eucalyptus") // nobody else may register kernels
	guest, folder := disktest.Guest(t, nil), t.TempDir()
	sh(t, "cp", "--sparse=always", guest, filepath.Join(folder, "part.raw"))
	kernel, ramdisk := filepath.Join(folder, "part.kernel"), filepath.Join(folder, "part.ramdisk")
	for path, text := range map[string]string{kernel: "kernel", ramdisk: "ramdisk"} {
		if err := os.WriteFile(path, []byte(strings.Repeat(text, 100_000)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in := install(t, cloud.clouds, "  euca: {type: eucalyptus, eucarc: "+admin+"}\n  a: {type: openstack, cloud: a, clean: auto}\n  folder: {type: local, images: "+folder+"}\n")
	a := login(t, "a")
	a.clear(t)
	in.run(t, "cp", "folder:images/part", "euca:images/part")
	m := in.mount(t)
	sameFile(t, filepath.Join(m, "euca", "images", "part.raw"), guest)
	sameFile(t, filepath.Join(m, "euca", "images", "part.kernel"), kernel)
	sameFile(t, filepath.Join(m, "euca", "images", "part.ramdisk"), ramdisk)
	in.run(t, "cp", "--clean", "off", "euca:images/part", "a:images/part")
	formats := map[string]bool{}
	for _, i := range a.images(t) {
		formats[i.text("disk_format")] = true
	}
	if len(formats) != 3 || !formats["ami"] || !formats["aki"] || !formats["ari"] {
		t.Errorf("the set has arrived as %v", formats)
	}
	sameFile(t, filepath.Join(m, "a", "images", "part.raw"), guest)
	sameFile(t, filepath.Join(m, "a", "images", "part.kernel"), kernel)
}

// TestEucalyptusCapture: no read and no copy restarts an instance, and a capture does when
// it is allowed to; it goes on to OpenStack as any image does.
func TestEucalyptusCapture(t *testing.T) {
	e := startEuca(t)
	alice, _ := e.eucarc(t, "alice")
	guest, folder := disktest.Guest(t, nil), t.TempDir()
	in := install(t, cloud.clouds, "  euca: {type: eucalyptus, eucarc: "+alice+", clean: auto}\n  a: {type: openstack, cloud: a, clean: auto}\n  folder: {type: local, images: "+folder+"}\n")
	a := login(t, "a")
	a.clear(t)
	sh(t, "cp", "--sparse=always", guest, filepath.Join(folder, "base.raw"))
	in.run(t, "cp", "folder:images/base", "euca:images/base")
	var listed []struct{ ID, Name string }
	if err := json.Unmarshal([]byte(in.run(t, "ls", "--json", "euca:images")), &listed); err != nil || len(listed) != 1 {
		t.Fatalf("listed is %+v: %v", listed, err)
	}
	var launched struct{ ID string }
	e.ask(t, map[string]any{"launch": map[string]any{"account": "alice", "disk": guest, "image": listed[0].ID}}, &launched)
	m := in.mount(t)
	live := filepath.Join(m, "euca", "instances", launched.ID+".raw")
	if out, err := tryCommand("cp", live, filepath.Join(folder, "taken.raw")); err == nil || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("it was read: %v, %s", err, out)
	}
	if out, err := tryCommand("cp", live, filepath.Join(m, "a", "images", "taken.raw")); err == nil || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("it was copied: %v, %s", err, out)
	}
	if out, err := in.try("capture", "euca:instances/"+launched.ID); err == nil || !strings.Contains(out, "--yes-restart") {
		t.Errorf("it was captured: %v, %s", err, out)
	}
	in.run(t, "capture", "--yes-restart", "euca:instances/"+launched.ID)
	captures, err := filepath.Glob(filepath.Join(m, "euca", "instances", "*@*.raw"))
	if err != nil || len(captures) != 1 {
		t.Fatalf("there are the captures %q, %v", captures, err)
	}
	sameFile(t, captures[0], guest)
	sh(t, "cp", captures[0], filepath.Join(m, "a", "images", "captured.raw"))
	wantSecret(t, filepath.Join(m, "a", "images", "captured.raw"), false)
}
