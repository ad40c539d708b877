package providertest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// boots is the content of a companion: of an odd size.
func boots(role providers.Role) disk.Image {
	return disktest.Pattern(300_001+int64(len(role)), nil)
}

// companionSpec is that of the upload of a companion.
func (f Fixture) companionSpec(name string, role providers.Role, together bool) providers.Spec {
	spec := f.spec(name, boots(role))
	spec.Format, spec.Role, spec.Together = "raw", role, together
	return spec
}

// sendCompanion sends one.
func (f Fixture) sendCompanion(t *testing.T, name string, role providers.Role, together bool) providers.Upload {
	t.Helper()
	return f.send(t, f.companionSpec(name, role, together), boots(role))
}

// wantCompanions reads the companions of an image.
func (f Fixture) wantCompanions(t *testing.T, e providers.Entry, roles ...providers.Role) {
	t.Helper()
	if len(e.Companions) != len(roles) {
		t.Fatalf("image %q has the companions %+v, want %q", e.Name, e.Companions, roles)
	}
	for _, role := range roles {
		c, ok := e.Companion(role)
		if !ok || c.ID == "" || c.Version == "" || c.Size != boots(role).Size() || c.Reason != "" {
			t.Fatalf("the %s of %q is %+v", role, e.Name, c)
		}
		f.holds(t, c.Entry(e.Name), boots(role))
	}
}

// readable checks how many images can be read, and that nothing is left behind: a cloud may
// list kernels too, with a reason.
func (f Fixture) readable(t *testing.T, images int) {
	t.Helper()
	all := f.list(t)
	n := 0
	for _, e := range all {
		if e.Reason == "" {
			n++
		}
	}
	if n != images {
		t.Errorf("%d images can be read, want %d", n, images)
	}
	f.clean(t, len(all))
}

// uploadTogether makes an image that appears with its companions, and goes with them.
func uploadTogether(t *testing.T, f Fixture) {
	keeper := role[providers.CompanionKeeper](t, f)
	img := pattern()
	spec := f.spec("web", img)
	spec.Companions = map[providers.Role]providers.Upload{}
	var ups []providers.Upload
	for _, role := range providers.Roles() {
		u := f.sendCompanion(t, "web", role, true)
		if _, err := u.Commit(t.Context()); err == nil {
			t.Errorf("a %s appears without its image", role)
		}
		spec.Companions[role] = u
		ups = append(ups, u)
	}
	if n := len(f.list(t)) + len(f.waiting(t)); n != 0 {
		t.Errorf("%d entries are listed before the image is", n)
	}

	// Without the image there are none of them.
	u := f.send(t, spec, img)
	for _, up := range append(ups, u) {
		if err := up.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	}
	f.clean(t, 0)

	for _, role := range providers.Roles() {
		spec.Companions[role] = f.sendCompanion(t, "web", role, true)
	}
	if _, err := f.send(t, spec, img).Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := f.image(t, "web")
	f.holds(t, e, img)
	f.wantCompanions(t, e, providers.Roles()...)
	f.readable(t, 1)
	for _, role := range providers.Roles() { // what is a part of the image goes with that alone
		c, _ := e.Companion(role)
		if err := keeper.DeleteCompanion(t.Context(), c.Entry("web")); err == nil {
			t.Errorf("the %s goes without its image", role)
		}
	}
	_, err := keeper.Begin(t.Context(), f.companionSpec("web", "bios", false))
	wantKind(t, "upload in a role that there is none of", err, disk.Invalid)

	if r, ok := f.Provider.(providers.Renamer); ok {
		if _, err := r.Rename(t.Context(), e, "mail"); err != nil {
			t.Fatal(err)
		}
		e = f.image(t, "mail")
		f.wantCompanions(t, e, providers.Roles()...)
	}
	if timer, ok := f.Provider.(providers.Timer); ok {
		when := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
		c, _ := e.Companion(providers.Kernel)
		now, err := timer.SetMtime(t.Context(), c.Entry(e.Name), when)
		if err != nil || !now.Updated.Equal(when) || now.Role != providers.Kernel {
			t.Errorf("the kernel is %+v, %v", now, err)
		}
		e = f.image(t, e.Name)
		if c, _ := e.Companion(providers.Kernel); !c.Updated.Equal(when) || c.Version != now.Version {
			t.Errorf("the kernel is listed as %+v, it became %+v", c, now)
		}
		f.wantCompanions(t, e, providers.Roles()...)
	}
	if setter, ok := f.Provider.(providers.MetaSetter); ok { // metadata takes none of them away
		if _, err := setter.SetMeta(t.Context(), e, providers.Metadata{Meta: disk.Meta{Firmware: "bios"}}); err != nil {
			t.Error(err)
		}
		e = f.image(t, e.Name)
		f.wantCompanions(t, e, providers.Roles()...)
	}
	deleter := role[providers.Deleter](t, f)
	if surveyor, ok := f.Provider.(providers.Surveyor); ok {
		if what, err := surveyor.Survey(t.Context(), e); err != nil || len(what.Files) != 3 || len(what.Kept) != 0 {
			t.Errorf("what would go is %+v, %v", what, err)
		}
	}
	if err := deleter.Delete(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	f.clean(t, 0)
	if waiting := f.waiting(t); len(waiting) != 0 {
		t.Errorf("left are %+v", waiting)
	}
}

// uploadCompanions adds companions to an image one by one, before it and after it.
func uploadCompanions(t *testing.T, f Fixture) {
	keeper := role[providers.CompanionKeeper](t, f)
	kernel, err := f.sendCompanion(t, "web", providers.Kernel, false).Commit(t.Context())
	if err != nil || kernel.Waiting == nil || kernel.Role != providers.Kernel || kernel.Name != "web" {
		t.Fatalf("the kernel is %+v, %v", kernel, err)
	}
	other, err := f.sendCompanion(t, "mail", providers.Kernel, false).Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]providers.Entry{}
	for _, e := range f.waiting(t) {
		found[e.Name] = e
	}
	if diff := cmp.Diff(map[string]providers.Entry{"web": kernel, "mail": other}, found); diff != "" {
		t.Errorf("the listing differs from what was committed: %s", diff)
	}
	f.holds(t, kernel, boots(providers.Kernel))
	if err := keeper.DeleteCompanion(t.Context(), other); err != nil {
		t.Error(err)
	}

	img := pattern()
	spec := f.spec("web", img)
	spec.Companions = map[providers.Role]providers.Upload{providers.Kernel: nil}
	if _, err := f.send(t, spec, img).Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wantCompanions(t, f.image(t, "web"), providers.Kernel)
	if waiting := f.waiting(t); len(waiting) != 0 {
		t.Errorf("%+v wait", waiting)
	}
	ramdisk, err := f.sendCompanion(t, "web", providers.Ramdisk, false).Commit(t.Context())
	if err != nil || ramdisk.Waiting != nil {
		t.Errorf("the ramdisk is %+v, %v", ramdisk, err)
	}
	e := f.image(t, "web")
	f.holds(t, e, img)
	f.wantCompanions(t, e, providers.Roles()...)
	f.readable(t, 1)

	// Another one does not take its place.
	u, err := keeper.Begin(t.Context(), f.companionSpec("web", providers.Kernel, false))
	if err == nil {
		if err = u.Send(t.Context(), boots(providers.Kernel), func(int64) {}); err == nil {
			_, err = u.Commit(t.Context())
		}
		if err := u.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	}
	wantKind(t, "a second kernel", err, disk.Exists)
	f.readable(t, 1)
}
