package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Those who are not root have all that they need: a kernel of their own without any
// right, and fuse2fs with ids that were given to them. As root this starts itself as
// such a user, in a namespace in which /etc/subuid has a line for it.
func TestOrdinaryUser(t *testing.T) {
	program := worker(t)
	if os.Geteuid() != 0 {
		ordinaryUser(t)
		return
	}
	need(t, "setpriv", "unshare", "newuidmap")
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runProgram(t, "cp", self, program, dir)
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(tmp, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	ids := filepath.Join(dir, "subid")
	if err := os.WriteFile(ids, []byte("nobody:600000:65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, ranges := range []string{"", ids} {
		script := `mount --make-rprivate / && touch /etc/subuid /etc/subgid && if [ -n "$1" ]; then mount --bind "$1" /etc/subuid && mount --bind "$1" /etc/subgid; fi && shift && exec "$@"`
		cmd := exec.Command("unshare", "-m", "sh", "-c", script, "sh", ranges, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
			filepath.Join(dir, filepath.Base(self)), "-test.run=^TestOrdinaryUser$", "-test.v")
		if ranges != "" {
			cmd.Args = append(cmd.Args[:len(cmd.Args)-4], cmd.Args[len(cmd.Args)-3:]...) // newuidmap has to get its rights
		}
		cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp, "GUEST_WORKER="+filepath.Join(dir, "worker"), "GUEST_IDS="+ranges)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestOrdinaryUser/") {
			t.Errorf("with ids %q: %v\n%s", ranges, err, out)
		}
		t.Logf("%s", out)
	}
}

func ordinaryUser(t *testing.T) {
	path := makeDisk(t, "gpt", partSpec{32, "linux", ext("ext4", linux("# none\n"))})
	for _, way := range []string{accessUML, accessFuse2fs} {
		t.Run(way, func(t *testing.T) {
			if ids, root := os.LookupEnv("GUEST_IDS"); way == accessFuse2fs && root && ids == "" {
				return // there are none, as root has seen to
			}
			wayWorks(t, way)
			d := openDisk(t, path)
			_, said := do(t, d, Options{Access: way}, append(cleaning(),
				step{Do: "write", Path: "root/made"}, step{Do: "chown", Path: "etc/hostname", N: 1234},
				step{Do: "stat", Path: "root/made"}, step{Do: "stat", Path: "etc/hostname"})...)
			if made, chowned := said["stat root/made"], said["stat etc/hostname"]; !strings.HasPrefix(made, "-rw-r----- 0:0 ") || !strings.HasPrefix(chowned, "-rw-r----- 1234:1234 ") {
				t.Errorf("files belong to %q and %q", made, chowned)
			}
			expectClean(t, d, traces()...)
		})
	}
	t.Run(accessLoop, func(t *testing.T) {
		if _, err := Run(t.Context(), openDisk(t, path), Options{Executable: worker(t), Access: accessLoop}, nil); err == nil || !strings.Contains(err.Error(), "only root may") {
			t.Errorf("got %v", err)
		}
	})
}
