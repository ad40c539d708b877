package ec2test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// VersitygwVersion is the version of versitygw that Versitygw installs.
const VersitygwVersion = "v1.8.0"

// Versitygw runs a versitygw until the test ends, as a second opinion on signatures of
// version 4 by somebody else's server: it is strict, takes the region us-east-1 alone and
// no signature of version 2. It is for make test-full, and is installed when it is missing,
// which takes some minutes.
func Versitygw(t testing.TB) (url, accessKey, secret string) {
	t.Helper()
	if os.Getenv("CHROMOGENIC_FULL") == "" {
		t.Skip("for make test-full")
	}
	program, err := versitygw()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that nobody has
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	accessKey, secret = "AKI"+random(8), random(20)
	var out bytes.Buffer
	cmd := exec.Command(program, "--port", at, "posix", t.TempDir())
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secret)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	})
	url = "http://" + at
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(url + "/")
		if err == nil {
			_ = resp.Body.Close() // whatever it says: it is there
			return url, accessKey, secret
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("versitygw ended: %v: %s", err, out.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("versitygw does not answer")
		}
	}
}

// versitygw is the path of the program.
func versitygw() (string, error) {
	dir, err := tools()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "versitygw-"+VersitygwVersion)
	path := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.Command("go", "install", "github.com/versity/versitygw/cmd/versitygw@"+VersitygwVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	cmd.Dir = os.TempDir() // of no module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("install versitygw %s: %w: %s", VersitygwVersion, err, out)
	}
	return path, nil
}
