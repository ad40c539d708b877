package cleaner

import (
	"bytes"
	"io"
	"regexp"
)

// coreName is how the kernel calls a dump of a process, core(5).
var coreName = regexp.MustCompile(`^(core|core\.[0-9]+|core\..*\.[0-9]+|vmcore.*)$`)

// crash removes dumps of processes and kernels: they are memory, with all that was in
// it.
func crash(g *Guest) error {
	if err := g.empty(nil, "/var/crash", "/var/spool/abrt", "/var/spool/abrt-upload", "/var/tmp/abrt", "/var/cache/abrt*", "/var/lib/systemd/coredump", "/var/lib/systemd/pstore", "/var/lib/apport/coredump", "/var/lib/kdump/vmcore*", "/var/core", "/var/cores", "/var/coredumps", "/var/lib/whoopsie"); err != nil {
		return err
	}
	if err := g.remove("/var/lib/smolt/uuid", "/etc/smolt/*uuid*", "/var/lib/whoopsie/whoopsie-id"); err != nil {
		return err
	}
	for _, pattern := range []string{"/core*", "/vmcore*", "/var/core*", "/var/lib/core*", "/var/lib/*/core*", "/srv/core*", "/srv/*/core*", "/opt/core*", "/opt/*/core*", "/etc/core*", "/usr/local/core*", "/var/www/core*"} {
		paths, err := g.glob(pattern)
		if err != nil {
			return err
		}
		for _, p := range paths {
			if err := removeCore(g, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCore removes a file if it is a dump: of the type ET_CORE, elf(5), or a dump of
// makedumpfile(8).
func removeCore(g *Guest, p string) error {
	n, ok, err := g.lookup(p, false)
	if err != nil || !ok || !n.regular() || !coreName.MatchString(n.info.Name()) {
		return err
	}
	f, err := g.openFile(n, 0)
	if err != nil {
		return pathError(p, err)
	}
	defer f.Close()
	var head [18]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return nil // too short for one
	}
	const etCore = 4 // e_type
	little := bytes.Equal(head[16:18], []byte{etCore, 0})
	big := bytes.Equal(head[16:18], []byte{0, etCore})
	if bytes.HasPrefix(head[:], []byte("\x7fELF")) && (little || big) || bytes.HasPrefix(head[:], []byte("KDUMP")) {
		return g.removePath(p)
	}
	return nil
}
