package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
)

// writeClouds makes a clouds.yaml that is the one which is found.
func writeClouds(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OS_CLIENT_CONFIG_FILE", path)
	return path
}

// namedClouds gives the directories of clouds by what they are elsewhere.
func namedClouds(all []providerConfig) map[string]string {
	names := map[string]string{}
	for _, p := range all {
		names[p.Cloud+"/"+p.Region] = p.Name
	}
	return names
}

// TestClouds: each cloud has a directory of its own, whose name does not depend on the
// clouds that come later.
func TestClouds(t *testing.T) {
	const first = "clouds:\n  my-cloud: {}\n  My.Cloud: {}\n  MY cloud: {}\n  a: {regions: [b, c]}\n"
	writeClouds(t, first)
	conf := &config{}
	if hidden, err := conf.addDiscovered(); err != nil || len(hidden) > 0 {
		t.Fatalf("hidden are %q, %v", hidden, err)
	}
	want := map[string]string{"my-cloud/": "my-cloud", "My.Cloud/": "my-cloud-4b88", "MY cloud/": "my-cloud-3ff4", "a/b": "a-b", "a/c": "a-c"}
	if diff := cmp.Diff(want, namedClouds(conf.Providers)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	writeClouds(t, first+"  AA.cloud: {}\n  M-y: {}\n  MY=cloud: {}\n  a-b: {}\n")
	conf = &config{}
	if _, err := conf.addDiscovered(); err != nil {
		t.Fatal(err)
	}
	got := namedClouds(conf.Providers)
	if got["a-b/"] != "a-b" || got["a/b"] == "a-b" || got["a/b"] == "" {
		t.Errorf("of a-b there are %q and %q", got["a-b/"], got["a/b"])
	}
	for _, cloud := range []string{"my-cloud/", "My.Cloud/", "MY cloud/", "a/c"} {
		if got[cloud] != want[cloud] {
			t.Errorf("%s is %q now, it was %q", cloud, got[cloud], want[cloud])
		}
	}
}

// TestCloudsBesideAConfiguration: a cloud that the configuration has is there once; one
// whose name it gives to something else is told of.
func TestCloudsBesideAConfiguration(t *testing.T) {
	writeClouds(t, "clouds: {prod: {}, office: {}, lab: {}}\n")
	configured := config{Providers: []providerConfig{
		{Name: "office", Type: typeLocal, Images: "/srv"},
		{Name: "prod", Type: typeOpenStack, Cloud: "prod", Store: "raw"},
	}}
	conf := configured
	hidden, err := conf.addDiscovered()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"office"}, hidden); diff != "" {
		t.Errorf("hidden (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(configured.Providers, providerConfig{Name: "lab", Type: typeOpenStack, Cloud: "lab", Found: true}), conf.Providers); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// A command knows a cloud that it names.
	conf = configured
	if err := conf.addNamed([]string{"--l", "office:images", "lab:images/web.raw", "x.raw"}); err != nil {
		t.Fatal(err)
	}
	if len(conf.Providers) != 3 || conf.Providers[2].Name != "lab" {
		t.Errorf("the providers are %+v", conf.Providers)
	}
}

// TestRediscovered: a file that is broken, empty or gone takes no cloud off a mount.
func TestRediscovered(t *testing.T) {
	path := writeClouds(t, "clouds: {prod: {}, lab: {}}\n")
	m := &mounting{config: &config{}}
	if _, err := m.addDiscovered(); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.file.Providers = []providerConfig{{Name: "office", Type: typeOpenStack, Cloud: "prod"}}
	for text, want := range map[string]disk.Kind{"": disk.NotFound, "clouds: {}\n": disk.NotFound, "clouds: [": disk.Denied} {
		write(text)
		if _, _, err := m.reread(true); disk.KindOf(err) != want {
			t.Errorf("with %q: %v, want %v", text, err, want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.reread(true); disk.KindOf(err) != disk.NotFound {
		t.Errorf("without it: %v", err)
	}
	write("clouds: {lab: {}, new: {}}\n")
	now, _, err := m.reread(true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"prod/": "office", "lab/": "lab", "new/": "new"}, namedClouds(now.Providers)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
