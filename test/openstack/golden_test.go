package openstack

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk/disktest"
)

// goldenClouds are two projects of this cloud under the names of docs/golden-images.md.
// Networks of no name take a newer version of the compute service than the oldest.
func goldenClouds(t testing.TB, build, prod string) string {
	t.Helper()
	text := "clouds:\n"
	for name, user := range map[string]string{"build": build, "prod": prod} {
		text += fmt.Sprintf("  %s:\n    region_name: RegionOne\n    compute_api_version: '2.47'\n"+
			"    auth: {auth_url: %q, username: %s, password: secret, project_name: %s, user_domain_name: Default, project_domain_name: Default}\n",
			name, env(t, "OPENSTACK_KEYSTONE"), user, user)
	}
	path := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// shellBlocks are the commands of a document.
func shellBlocks(t testing.TB, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for i, part := range strings.Split("\n"+string(text), "\n```") {
		if code, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			blocks = append(blocks, code)
		}
	}
	return blocks
}

// A golden is where the document is followed.
type golden struct {
	dir, mnt string
	env      []string
}

// newGolden is what the document takes for granted: a guest and a disk without any
// structure, compressed, and two projects.
func newGolden(t testing.TB, build, prod string) *golden {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	g := &golden{dir: t.TempDir(), mnt: t.TempDir()}
	web := disktest.Pattern(16<<20, func(b int64) bool { return b > 100 && b%5 == 0 })
	for name, img := range map[string]func(*os.File) error{
		"web.raw": func(f *os.File) error {
			p, err := disktest.Read(web)
			copy(p, guestDisk())
			if err == nil {
				_, err = f.Write(p)
			}
			return err
		},
		"base.raw": func(f *os.File) error {
			p, err := disktest.Read(faultImage())
			if err == nil {
				_, err = f.Write(p)
			}
			return err
		},
	} {
		f, err := os.Create(filepath.Join(g.dir, name))
		if err == nil {
			err = img(f)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "xz", filepath.Join(g.dir, "web.raw"))
	sh(t, "gzip", filepath.Join(g.dir, "base.raw"))
	g.env = append(os.Environ(),
		"PATH="+filepath.Dir(path)+":"+os.Getenv("PATH"), "LC_ALL=C", "HOME="+t.TempDir(), "XDG_CONFIG_HOME=", "CHROMOGENIC_CONFIG=",
		"CHROMOGENIC_STATE_DIR="+t.TempDir(), "OS_CLIENT_CONFIG_FILE="+goldenClouds(t, build, prod), "MNT="+g.mnt, "FLAVOR=42", "NIC=none",
	)
	t.Cleanup(func() {
		if exec.Command("mountpoint", "-q", g.mnt).Run() != nil {
			return
		}
		failures, _ := os.ReadFile(filepath.Join(g.mnt, ".chromogenic", "errors"))
		t.Logf("failures: %s", failures)
		if out, err := tryCommand("umount", g.mnt); err != nil {
			t.Errorf("%s: %v", out, err)
			exec.Command("umount", "-l", g.mnt).Run()
		}
	})
	return g
}

// run gives commands to one shell, and its output.
func (g *golden) run(commands ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", "-x", "-c", strings.Join(commands, "\n"))
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = g.dir, g.env, &out, &out
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	return out.String(), err
}

// TestGoldenImages runs the commands of docs/golden-images.md as they are written there,
// and looks at what they leave, by other ways than theirs.
func TestGoldenImages(t *testing.T) {
	t.Parallel()
	a, b := ownProject(t, "build"), ownProject(t, "prod")
	blocks := shellBlocks(t, filepath.Join("..", "..", "docs", "golden-images.md"))
	g := newGolden(t, "build", "prod")
	began := time.Now()
	out, err := g.run(blocks...)
	t.Logf("%d blocks in %v", len(blocks), time.Since(began).Round(time.Second))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	kept := map[string]string{}
	for _, r := range append(a.images(t), b.images(t)...) {
		kept[r.text("name")] += r.text("disk_format") + " " + r.text("visibility") + " " + r.text("status") + "; "
	}
	want := map[string]string{"web": "qcow2 private active; ", "golden": "qcow2 private active; qcow2 private active; "}
	if fmt.Sprint(kept) != fmt.Sprint(want) {
		t.Errorf("the images are %v, want %v", kept, want)
	}
	raw := filepath.Join(g.dir, "golden.raw")
	wantMarker(t, raw, 8, true) // the guest has run
	wantMarker(t, raw, 9, false)
	wantMarker(t, filepath.Join(g.dir, "web.raw"), 8, false)
	if info, err := os.Stat(raw); err != nil || info.Size() != 1<<30 {
		t.Errorf("%v, %v", info, err)
	}
	for _, x := range []*api{a, b} {
		if left := x.debris(t); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

// TestGoldenDamaged: of a compressed image that is cut off, or whose unpacking is killed,
// the commands of the document publish nothing.
func TestGoldenDamaged(t *testing.T) {
	a, b := login(t, "a"), login(t, "b")
	a.clear(t)
	b.clear(t)
	blocks := shellBlocks(t, filepath.Join("..", "..", "docs", "golden-images.md"))
	g := newGolden(t, "a", "b")
	if out, err := g.run(blocks[0]); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, file := range []string{"web.raw.xz", "base.raw.gz"} {
		path := filepath.Join(g.dir, file)
		info, err := os.Stat(path)
		if err == nil {
			err = os.Truncate(path, info.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ name, block, before string }{
		{"web.raw.xz", blocks[1], ""},
		{"base.raw.gz", blocks[2], ""},
		// A gzip that is killed, and says nothing.
		{"base.raw.gz killed", blocks[2], `gzip() { command gzip -dc base.raw.gz 2>/dev/null | head -c 4M; kill -KILL $BASHPID; }`},
	} {
		if !strings.Contains(tt.block, strings.Fields(tt.name)[0]) {
			t.Fatalf("%s is not in %s", tt.name, tt.block)
		}
		if out, err := g.run("set -euo pipefail", tt.before, tt.block); err == nil {
			t.Errorf("%s: no failure: %s", tt.name, out)
		}
		if images := a.images(t); len(images) > 0 {
			t.Errorf("%s: it is there: %v", tt.name, images)
		}
		os.Remove(filepath.Join(g.mnt, "build", "images", ".base.raw"))
	}
}
