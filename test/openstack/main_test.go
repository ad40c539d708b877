package openstack

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cloud is the one that all tests share.
type cloudT struct {
	temp    string   // of all tests
	dir     string   // of openstack.sh
	env     []string // of openstack.sh
	glance  string
	clouds  string // the path of clouds.yaml
	missing string // why there is none
}

var cloud cloudT

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run brings the cloud up, and leaves nothing of it. A cloud that is up already, in
// OPENSTACK_DIR, is used and stays.
func run(m *testing.M) int {
	began := time.Now()
	cloud.env = os.Environ()
	if os.Getenv("OPENSTACK_NOVA") == "" { // off does for tests of images alone
		cloud.env = append(cloud.env, "OPENSTACK_NOVA=libvirt")
	}
	dir, err := os.MkdirTemp("", "chromo-os-") // short: libvirt's sockets are below it
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	cloud.temp = dir
	if given := os.Getenv("OPENSTACK_DIR"); given != "" {
		cloud.dir = given
	} else {
		cloud.dir = filepath.Join(dir, "cloud")
		cloud.env = append(cloud.env, "OPENSTACK_DIR="+cloud.dir, fmt.Sprintf("OPENSTACK_PORT=%d", freePorts()))
		defer func() {
			began := time.Now()
			if out, err := cloud.script("destroy"); err != nil {
				fmt.Printf("the cloud cannot be removed: %v: %s\n", err, out)
			}
			fmt.Printf("the cloud was removed in %v\n", time.Since(began).Round(100*time.Millisecond))
		}()
	}
	if out, err := cloud.script("missing"); err != nil {
		cloud.missing = out
	} else if os.Geteuid() != 0 {
		cloud.missing = "libvirt and its guests take root"
	} else if out, err := cloud.script("up"); err != nil {
		fmt.Printf("the cloud did not come up: %v: %s\n", err, out)
		return 1
	}
	if cloud.missing != "" && os.Getenv("CI") != "" {
		fmt.Printf("there is no cloud: %s\n", cloud.missing)
		return 1
	}
	if cloud.missing == "" {
		out, err := cloud.script("env")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		for line := range strings.Lines(out) {
			key, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
			switch key {
			case "OPENSTACK_GLANCE":
				cloud.glance = value
			case "OS_CLIENT_CONFIG_FILE":
				cloud.clouds = value
			}
		}
		fmt.Printf("the cloud came up in %v\n", time.Since(began).Round(100*time.Millisecond))
	}
	return m.Run()
}

// script runs openstack.sh.
func (c *cloudT) script(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.Command("./openstack.sh", args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, &out, &out
	// Services must not hold our pipe open.
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	return out.String(), err
}

// freePorts is the first of five ports in a row that nobody has.
func freePorts() int {
	for base := 21000 + os.Getpid()%4000*5; ; base += 5 {
		free := true
		for i := range 5 {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+i))
			if err != nil {
				free = false
				continue
			}
			l.Close()
		}
		if free {
			return base
		}
	}
}

// need skips the test where there is no cloud, which CI does not allow.
func need(t testing.TB) {
	t.Helper()
	if cloud.missing != "" {
		t.Skipf("there is no cloud: %s", cloud.missing)
	}
}
