package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/providers/internal/ec2test"
)

// The command tells what it runs, does what it is told, and ends with its input.
func TestRun(t *testing.T) {
	if err := ec2test.Missing(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%v; CI must have it", err)
		}
		t.Skipf("!!!!! NOT TESTED: %v", err)
	}
	in, orders := io.Pipe()
	answers, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run([]string{"-dir", t.TempDir()}, in, out)
		out.CloseWithError(err)
		ended <- err
	}()
	lines := bufio.NewScanner(answers)
	next := func(v any) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("it has ended: %v", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), v); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
	}
	tell := func(line string) (a answer) {
		t.Helper()
		if _, err := io.WriteString(orders, line+"\n"); err != nil {
			t.Fatal(err)
		}
		next(&a)
		return a
	}
	var c cloud
	next(&c)
	if len(c.Accounts) != 3 || !strings.HasPrefix(c.EC2, "http://127.0.0.1:") || !strings.Contains(c.Accounts[1].Key, "RSA PRIVATE KEY") || c.Accounts[1].Name != "alice" {
		t.Errorf("%+v", c)
	}
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if a := tell(`{"launch": {"account": "alice", "disk": "` + path + `"}}`); !strings.HasPrefix(a.ID, "i-") {
		t.Errorf("%+v", a)
	}
	for _, bad := range []string{"{", "{}", `{"launch": {"account": "alice", "disk": "/none"}}`} {
		if a := tell(bad); a.Error == "" {
			t.Errorf("%s is done", bad)
		}
	}
	status := func() int {
		resp, err := http.Get(c.S3 + "/bucket/key")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	tell(`{"trouble": {"service": "s3", "do": "status", "status": 418, "times": -1}}`)
	if got := status(); got != 418 {
		t.Errorf("in trouble it is %d", got)
	}
	tell(`{"calm": true}`)
	if got := status(); got != 404 {
		t.Errorf("calm it is %d", got)
	}
	orders.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
