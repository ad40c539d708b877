package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const sftpServer = "/usr/lib/openssh/sftp-server"

// scp starts an SSH server of its own on the loopback, and gives a program that
// copies through it.
func scp(t testing.TB) program {
	t.Helper()
	need(t, "scp", "ssh-keygen", "/usr/sbin/sshd", sftpServer)
	if os.Getuid() == 0 {
		// The folder that sshd of Debian wants to be there.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, key := range []string{"host", "user"} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", in(key))
	}
	run(t, "cp", in("user.pub"), in("authorized"))
	port := freePort(t)
	writeFile(t, in("sshd"), fmt.Appendf(nil, `Port %d
ListenAddress 127.0.0.1
HostKey %s
PidFile none
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
Subsystem sftp %s
`, port, in("host"), in("authorized"), sftpServer))
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", in("sshd"))
	if err := sshd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sshd.Process.Signal(syscall.SIGTERM)
		sshd.Wait()
	})
	awaitPort(t, port)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return program{name: "scp", quiet: true, line: func(src, dst string) *exec.Cmd {
		return command("scp", "-q", "-F", "none", "-P", fmt.Sprint(port), "-i", in("user"),
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
			src, me.Username+"@127.0.0.1:"+dst)
	}}
}

// freePort is a port on which nobody listens.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// awaitPort waits until somebody listens.
func awaitPort(t testing.TB, port int) {
	t.Helper()
	for range 100 {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("nobody listens on port %d", port)
}
