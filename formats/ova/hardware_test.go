package ova

import (
	"strings"
	"testing"

	"chromogenic/disk/disktest"
)

// The disk to boot from is first: by oVirt's mark, or by where it hangs, whatever
// the order of the text.
func TestAttachedOrder(t *testing.T) {
	const head = `<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"><DiskSection><Disk diskId="a"/><Disk diskId="b"/><Disk diskId="c"/><Disk diskId="d"/></DiskSection><VirtualSystem><VirtualHardwareSection>`
	item := func(fields ...string) string {
		return "<Item><" + strings.Join(fields, "") + "</Item>"
	}
	disk := func(id, parent, at string) string {
		return item("ResourceType>17</ResourceType><HostResource>ovf:/disk/", id, "</HostResource><Parent>", parent, "</Parent><AddressOnParent>", at, "</AddressOnParent>")
	}
	controller := func(id, kind, address string) string {
		return item("ResourceType>", kind, "</ResourceType><InstanceID>", id, "</InstanceID><Address>", address, "</Address>")
	}
	ide1, ide0, scsi := controller("4", "5", "1"), controller("5", "5", "0"), controller("3", "6", "0")
	for name, tc := range map[string]struct {
		items []string
		boot  string
		want  string
	}{
		"no hardware":                {nil, "", "a b c d"},
		"by address":                 {[]string{scsi, disk("b", "3", "10"), disk("a", "3", "9"), disk("c", "3", "0")}, "", "c a b d"},
		"IDE 0 before IDE 1":         {[]string{ide1, ide0, disk("a", "4", "0"), disk("b", "5", "1"), disk("c", "5", "0")}, "", "c b a d"},
		"the first kind first":       {[]string{scsi, ide0, disk("a", "5", "0"), disk("b", "3", "1")}, "", "b a c d"},
		"controllers last":           {[]string{disk("b", "3", "1"), disk("a", "3", "2"), scsi}, "", "b a c d"},
		"marked":                     {[]string{scsi, disk("a", "3", "0"), disk("d", "3", "5")}, "d", "d a b c"},
		"without a controller":       {[]string{scsi, disk("b", "9", "0"), disk("c", "3", "7")}, "", "c b a d"},
		"attached twice":             {[]string{scsi, disk("b", "3", "1"), disk("b", "3", "0")}, "", "b a c d"},
		"of another configuration":   {[]string{strings.Replace(disk("a", "3", "1"), "<Item", `<Item configuration="x"`, 1), disk("b", "3", "1")}, "", "b c d"},
		"not attached, nothing else": {[]string{scsi}, "", "a b c d"},
	} {
		text := head + strings.Join(tc.items, "") + `</VirtualHardwareSection></VirtualSystem></Envelope>`
		if tc.boot != "" {
			text = strings.Replace(text, `diskId="`+tc.boot+`"`, `diskId="`+tc.boot+`" boot="true"`, 1)
		}
		e, err := parseEnvelope([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		disks, err := e.attached()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range disks {
			got = append(got, d.id)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
}

// An OVA, and a disk inside, are images like any other.
func TestSuite(t *testing.T) {
	t.Run("layout", func(t *testing.T) {
		f := layOut(t, machine(small(1)))
		disktest.Suite(t, f, layOut(t, machine(small(1))))
	})
	t.Run("disk", func(t *testing.T) {
		m, err := Open(layOut(t, machine(small(1), pattern{size: 3 << 20})))
		if err != nil {
			t.Fatal(err)
		}
		disktest.Suite(t, m.Disks[0].Image, small(1))
		disktest.Suite(t, m.Disks[1].Image, pattern{size: 3 << 20})
	})
	t.Run("empty disk", func(t *testing.T) {
		p := &pack{}
		d, err := p.openDisk(&envelope{}, virtualDisk{capacity: 5<<30 + 512})
		if err != nil {
			t.Fatal(err)
		}
		disktest.Suite(t, d.Image, pattern{size: 5<<30 + 512})
	})
}
