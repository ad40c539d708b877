package cleaner

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A mount is a line of fstab(5).
type mount struct {
	what, folder, kind, options string
}

// parseFstab reads fstab(5). Spaces in a field are written \040.
func parseFstab(text []byte) []mount {
	var all []mount
	for line := range bytes.Lines(text) {
		if m, ok := parseMount(line); ok {
			all = append(all, m)
		}
	}
	return all
}

func parseMount(line []byte) (mount, bool) {
	f := strings.Fields(string(line))
	if len(f) < 3 || strings.HasPrefix(f[0], "#") {
		return mount{}, false
	}
	m := mount{what: f[0], folder: strings.NewReplacer(`\040`, " ", `\011`, "\t").Replace(f[1]), kind: f[2]}
	if len(f) > 3 {
		m.options = f[3]
	}
	return m, true
}

var (
	// otherDisk is a device that is not the disk of the image, or a partition of the
	// first disk besides the root's, of which facts may say more.
	otherDisk = regexp.MustCompile(`^/dev/((?:xv|v)d[b-z]|xvd[a-z]{2}|sd[b-z]|nvme[1-9][0-9]*n[0-9]+)(p?[0-9]+)?$`)
	// firstDisk is a partition of it, by its number.
	firstDisk = regexp.MustCompile(`^/dev/(?:sda|vda|xvda|hda|nvme0n1p)([0-9]+)$`)
	// mountSecret is an option with a password: mount.cifs(8), mount.ceph(8).
	mountSecret = regexp.MustCompile(`(^|,)(password2?|pass|secret|username=[^,]*%[^,]*)=`)
	// credentialsFile is an option that leads to one.
	credentialsFile = regexp.MustCompile(`(?:^|,)(?:cred(?:entials)?|secretfile|passwd_file|conf)=(/[^,]+)`)
)

// fstab drops the disks that are not part of the image: a boot would wait for them.
func fstab(g *Guest) error {
	var files []string
	_, err := g.edit("/etc/fstab", func(text []byte) []byte {
		return eachLine(text, func(line []byte) []byte {
			m, ok := parseMount(line)
			if !ok || m.folder == "/" || !g.foreign(m) {
				return line
			}
			if c := credentialsFile.FindStringSubmatch(m.options); c != nil && !strings.HasPrefix(c[1], "/etc/ceph/ceph.conf") {
				files = append(files, literally(c[1]))
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return g.remove(files...)
}

// foreign tells whether a mount is of something that machines from the image do not
// have, or do not have a right to.
func (g *Guest) foreign(m mount) bool {
	switch {
	case mountSecret.MatchString(m.options), credentialsFile.MatchString(m.options):
		return true
	case strings.Contains(m.options, "comment=cloudconfig"):
		return true // cloud-init writes it anew for the disks that it finds
	case otherDisk.MatchString(m.what):
		return true
	}
	if n := firstDisk.FindStringSubmatch(m.what); n != nil {
		return n[1] != "1" && !g.hasPartition(n[1], m)
	}
	for _, by := range []struct {
		tag string
		of  func(i int) string
	}{
		{"UUID=", func(i int) string { return g.facts.Filesystems[i].UUID }},
		{"LABEL=", func(i int) string { return g.facts.Filesystems[i].Label }},
		{"/dev/disk/by-uuid/", func(i int) string { return g.facts.Filesystems[i].UUID }},
		{"/dev/disk/by-label/", func(i int) string { return g.facts.Filesystems[i].Label }},
	} {
		if id, ok := strings.CutPrefix(m.what, by.tag); ok {
			return g.unknown(strings.Trim(id, `"`), m, by.of)
		}
	}
	return false
}

// unknown tells whether no filesystem of the disk has an identity. Where one on the disk
// could not be looked into it may be that one's.
func (g *Guest) unknown(id string, m mount, of func(int) string) bool {
	if len(g.facts.Filesystems) == 0 || slices.Contains([]string{"/boot", "/boot/efi", "/efi", "/usr", "/var"}, m.folder) {
		return false
	}
	for i, f := range g.facts.Filesystems {
		if f.Type == "luks" || f.Type == "lvm" || f.Type == "" || of(i) == "" && f.Type != "bios-boot" && f.Type != m.kind && m.kind == "auto" {
			return false
		}
		if strings.EqualFold(of(i), id) || f.Mountpoint == m.folder || of(i) == "" && f.Type == m.kind {
			return false
		}
	}
	return true
}

// hasPartition tells whether a partition of the first disk is the image's. What was
// the first disk when fstab was written may be another now, but its numbers stay.
func (g *Guest) hasPartition(number string, m mount) bool {
	n, err := strconv.Atoi(number)
	if err != nil {
		return false
	}
	for _, f := range g.facts.Filesystems {
		if f.Number == n || f.Mountpoint == m.folder {
			return true
		}
	}
	// What is needed to boot is no data disk.
	return slices.Contains([]string{"/boot", "/boot/efi", "/efi", "/usr", "/var"}, m.folder)
}
