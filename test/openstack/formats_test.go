package openstack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFormatsRead: what the openstack command uploads, in every format of Glance, reads
// as the disk that it is, or is refused for a reason.
func TestFormatsRead(t *testing.T) {
	in, a, _ := twoSites(t, "")
	disk := testDisk(t)
	dir := t.TempDir()
	images := []struct {
		format, container string // of Glance
		qemu              string // how qemu-img makes it
		args              []string
	}{
		{"raw", "bare", "raw", nil},
		{"qcow2", "bare", "qcow2", nil},
		{"vmdk", "bare", "vmdk", []string{"-o", "subformat=streamOptimized"}},
		{"vmdk", "bare", "vmdk", []string{"-o", "subformat=monolithicSparse"}},
		{"vhd", "bare", "vpc", nil},
		{"vhdx", "bare", "vhdx", nil},
		{"vdi", "bare", "vdi", nil},
		{"iso", "bare", "raw", nil},
		{"ami", "ami", "raw", nil},
		{"aki", "aki", "raw", nil},
		{"raw", "docker", "raw", nil},
	}
	var commands []string
	for i, tt := range images {
		file := filepath.Join(dir, fmt.Sprint("image", i))
		sh(t, "qemu-img", append(append([]string{"convert", "-O", tt.qemu}, tt.args...), disk, file)...)
		commands = append(commands, fmt.Sprintf("image create --disk-format %s --container-format %s --file %s %s-%s-%d", tt.format, tt.container, file, tt.format, tt.container, i))
	}
	stacks(t, "a", commands...)
	for i, tt := range images {
		name := fmt.Sprintf("%s-%s-%d", tt.format, tt.container, i)
		got := filepath.Join(dir, "got.raw")
		out, err := in.try("cp", "--force", "a:images/"+name+".raw", got)
		switch reason := refusal(tt.format, tt.container); {
		case reason != "":
			if err == nil || !strings.Contains(out, reason) {
				t.Errorf("%s: %v: %s, want %q", name, err, out, reason)
			}
		case err != nil:
			t.Errorf("%s: %v: %s", name, err, out)
		case tt.qemu == "vpc": // whose size is one of cylinders
			sh(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", got, disk)
		default:
			sameFile(t, got, disk)
		}
		os.Remove(got)
	}
	out := in.run(t, "ls", "a:images")
	for _, r := range a.images(t) {
		shown := strings.Contains(out, r.text("name"))
		if want := refusal(r.text("disk_format"), r.text("container_format")) == ""; shown != want && !strings.Contains(out, "unreadable") {
			t.Errorf("%s is listed: %v", r.text("name"), shown)
		}
	}
}

// refusal is what is said of what cannot be read.
func refusal(format, container string) string {
	switch {
	case container == "docker":
		return "container format is docker"
	case format == "aki":
		return "a kernel or a ramdisk"
	case format == "vhd" || format == "vhdx" || format == "vdi":
		return "find format"
	}
	return ""
}

// TestFormatsWritten: what we upload is active, private and what the openstack command
// reads back, byte by byte.
func TestFormatsWritten(t *testing.T) {
	in, a, _ := twoSites(t, "")
	disk := testDisk(t)
	dir := t.TempDir()
	formats := []string{"raw", "qcow2", "vmdk"}
	var saves []string
	for _, format := range formats {
		in.run(t, "cp", "--store", format, disk, "a:images/"+format)
		saves = append(saves, fmt.Sprintf("image save --file %s %s", filepath.Join(dir, format), format))
	}
	stacks(t, "a", saves...)
	for _, format := range formats {
		back := filepath.Join(dir, format)
		sh(t, "qemu-img", "compare", "-f", "raw", "-F", format, disk, back)
		if format != "vmdk" { // of which qemu-img has no check for a stream
			if out, err := tryCommand("qemu-img", "check", "-f", format, back); err != nil && format != "raw" {
				t.Errorf("%s: %v: %s", format, err, out)
			}
		}
		file := filepath.Join(dir, "again."+format)
		in.run(t, "cp", "a:images/"+format+"."+format, file)
		sameFile(t, back, file)
	}
	for _, r := range a.images(t) {
		if r.text("status") != "active" || r.text("visibility") != "private" || r.text("disk_format") != r.text("name") || r.text("chromogenic_state") != "" {
			t.Errorf("the record is %v", r)
		}
	}
	if left := a.debris(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
