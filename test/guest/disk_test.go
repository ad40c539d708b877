package guest

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The disk: a GPT with the partition of GRUB, a swap partition and the root.
const (
	diskMiB   = 3072
	grubStart = 2048                           // in sectors of 512 bytes, as the others
	swapStart = 4096                           // 1 MiB behind it
	rootStart = swapStart + 64<<11             // 64 MiB of swap
	rootSize  = diskMiB<<11 - rootStart - 2048 // but for the second table
	rootUUID  = "7d9a3f2e-5b0c-4c8f-9a41-2f6f1c3d8e70"
)

// suite is the Debian that is installed.
const suite = "bookworm"

// packages are what makes a server of it, with a kernel and a boot loader, and nothing
// that would let an owner in again.
const packages = "systemd-sysv,linux-image-cloud-amd64,initramfs-tools,grub-pc-bin,grub-common,openssh-server,sudo,cron,rsyslog,dbus,libpam-systemd,logrotate,passwd,ssl-cert,chrony,mariadb-server,postfix,git,python3,vim,locales"

// installed is the tar of a Debian, made once for all tests.
var installed = sync.OnceValues(func() (string, error) {
	path := filepath.Join(work, suite+".tar")
	out, err := command("mmdebstrap", "--variant=minbase", "--include="+packages, "--quiet", suite, path)
	if err != nil {
		return "", fmt.Errorf("install %s: %w\n%s", suite, err, out)
	}
	return path, nil
})

// machine makes the disk of a Debian that somebody has used, and gives its path.
func machine(t testing.TB) string {
	t.Helper()
	tar, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "machine.raw")
	script(t, fmt.Sprintf(`truncate -s %dM %s
sfdisk --quiet %s <<-END
label: gpt
start=%d, size=2048, type=21686148-6449-6E6F-744E-656564454649
start=%d, size=%d, type=swap
start=%d, size=%d, type=linux
END
`, diskMiB, path, path, grubStart, swapStart, 64<<11, rootStart, rootSize))
	script(t, fmt.Sprintf("mke2fs -q -F -t ext4 -U %s -E offset=%d %s %dk", rootUUID, rootStart*512, path, rootSize/2))
	swapping(t, path)
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	mounted(t, path, root, "defaults", func() {
		sh(t, "tar", "-C", root, "--xattrs", "--xattrs-include=*", "-xf", tar)
		settle(t, root)
		bootable(t, root, path)
		use(t, root)
	})
	// What was written and removed again is in free blocks, and all of it in the journal.
	mounted(t, path, root, "data=journal", func() {
		for i := range 40 {
			put(t, root, fmt.Sprintf("/srv/removed-%d", i), "removed", 0o600)
		}
		script(t, "sync -f "+root+"; rm "+root+"/srv/removed-*")
	})
	return path
}

// mounted has the root of a disk mounted meanwhile. The kernel reads no partition table.
func mounted(t testing.TB, path, root, options string, do func()) {
	t.Helper()
	sh(t, "mount", "-o", fmt.Sprintf("loop,offset=%d,sizelimit=%d,%s", rootStart*512, rootSize*512, options), path, root)
	defer sh(t, "umount", root)
	do()
}

// settle writes what an installer would.
func settle(t testing.TB, root string) {
	t.Helper()
	for name, text := range map[string]string{
		"etc/fstab":    "UUID=" + rootUUID + " / ext4 errors=remount-ro 0 1\n",
		"etc/hostname": "build-42\n",
		"etc/hosts":    "127.0.0.1 localhost\n127.0.1.1 build-42.corp.example build-42\n",
		"boot/grub/grub.cfg": "set timeout=0\nserial --unit=0 --speed=115200\nterminal_output serial\nsearch --no-floppy --fs-uuid --set=root " + rootUUID +
			"\nmenuentry Debian {\n\tlinux /vmlinuz root=UUID=" + rootUUID + " ro console=ttyS0\n\tinitrd /initrd.img\n}\n",
		// It tells what a machine that was booted has made of itself, and ends.
		"etc/systemd/system/site-report.service": `[Unit]
Description=Report of the site
After=ssh.service multi-user.target

[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c 'echo; echo "REPORT machine-id $(cat /etc/machine-id)"; echo "REPORT ssh $(systemctl is-active ssh)"; for k in /etc/ssh/ssh_host_*_key; do echo "REPORT key $(ssh-keygen -lf $k)"; done; echo "REPORT failed $(systemctl --failed --no-legend --plain | cut -d" " -f1 | tr "\n" " ")"; echo "REPORT end"; systemctl poweroff --no-block'

[Install]
WantedBy=multi-user.target
`,
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "ln", "-s", "/etc/systemd/system/site-report.service", filepath.Join(root, "etc/systemd/system/multi-user.target.wants/site-report.service"))
}

// bootable writes GRUB to where a BIOS finds it, as grub-install does for a GPT with a
// partition of its own: the places are those of grub-core/boot/i386/pc/boot.S and
// diskboot.S.
func bootable(t testing.TB, root, path string) {
	t.Helper()
	sh(t, "chroot", root, "grub-mkimage", "-O", "i386-pc", "-p", "(hd0,gpt3)/boot/grub", "-o", "/boot/grub/core.img",
		"biosdisk", "part_gpt", "ext2", "linux", "normal", "search", "search_fs_uuid", "serial", "terminal")
	boot := read(t, filepath.Join(root, "usr/lib/grub/i386-pc/boot.img"))
	core := read(t, filepath.Join(root, "boot/grub/core.img"))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	first := make([]byte, 512)
	if _, err := f.ReadAt(first, 0); err != nil {
		t.Fatal(err)
	}
	copy(boot[3:0x5a], first[3:0x5a])                        // parameters of the BIOS
	copy(boot[440:512], first[440:512])                      // the table
	binary.LittleEndian.PutUint64(boot[0x5c:], grubStart)    // kernel_sector
	boot[0x64], boot[0x66], boot[0x67] = 0xff, 0x90, 0x90    // the drive that was booted
	binary.LittleEndian.PutUint64(core[0x1f4:], grubStart+1) // where the rest of it is
	binary.LittleEndian.PutUint16(core[0x1fc:], uint16((len(core)-1)/512))
	binary.LittleEndian.PutUint16(core[0x1fe:], 0x820) // and where it is to be
	for off, p := range map[int64][]byte{0: boot, grubStart * 512: core} {
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
}

// swapping makes the swap partition, with what was swapped out.
func swapping(t testing.TB, path string) {
	t.Helper()
	part := filepath.Join(t.TempDir(), "swap")
	script(t, fmt.Sprintf("truncate -s 64M %s; mkswap -q %s", part, part))
	f, err := os.OpenFile(part, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(secret("swapped")), 10<<20); err != nil {
		t.Fatal(err)
	}
	sh(t, "dd", "status=none", "conv=notrunc,sparse", "bs=1M", "seek=2", "if="+part, "of="+path)
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// secret is text that must be nowhere afterwards: its mark, with where it was planted.
func secret(where string) string {
	return strings.Repeat(fmt.Sprintf("%s-%s-4f1c2b9d7e\n", mark, where), 200)
}

// mark begins all secrets.
const mark = "PLANTED"
