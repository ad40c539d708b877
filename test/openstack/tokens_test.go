package openstack

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/openstack"
)

// A slow image takes a while for each of its bytes.
type slow struct {
	disk.Image
	pause time.Duration // of 1 MiB
}

func (s slow) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(time.Duration(int64(s.pause) * int64(len(p)) >> 20))
	return s.Image.ReadAt(p, off)
}

// TestTokensExpire: tokens hold for 6 s, and end several times in the middle of reading
// and of sending. They are renewed before, so that no service ever refuses one.
func TestTokensExpire(t *testing.T) {
	img := disktest.Pattern(8<<20, nil)
	login(t, "a").clear(t)
	otherwise(t, "keystone", "OPENSTACK_TOKEN_SECONDS=6")
	keystone := proxyOf(t, strings.TrimSuffix(env(t, "OPENSTACK_KEYSTONE"), "/v3"))
	glance := proxyOf(t, cloud.glance)
	file := cloudsFile(t, "a", glance.URL, "")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.Replace(string(text), env(t, "OPENSTACK_KEYSTONE"), keystone.URL+"/v3", 1)
	if err := os.WriteFile(file, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OS_CLIENT_CONFIG_FILE", file)
	p, err := openstack.New(openstack.Options{Name: "site", Cloud: "a", Store: "raw", Retry: 3 * time.Second, Stall: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Provider: p, proxy: glance}
	e, err := upload(t, r, "sent", slow{img, time.Second})
	if err != nil {
		t.Fatal(err)
	}
	src, err := p.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	began := time.Now()
	want, _ := disktest.Read(img)
	for n := 0; time.Since(began) < 9*time.Second; n++ {
		p1 := make([]byte, 64<<10)
		off := int64(n*7%8) << 20
		if err := disk.ReadFull(src, p1, off); err != nil || string(p1) != string(want[off:off+int64(len(p1))]) {
			t.Fatalf("read at %d after %v: %v", off, time.Since(began), err)
		}
		if _, err := p.List(t.Context(), providers.Images); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
	}
	logins := 0
	for _, line := range keystone.Log() {
		if strings.HasPrefix(line, http.MethodPost) && strings.Contains(line, "/auth/tokens") {
			logins++
		}
	}
	t.Logf("%d logins in %v", logins, time.Since(began).Round(time.Second)+8*time.Second)
	if logins < 3 || logins > 12 {
		t.Errorf("%d logins", logins)
	}
	if n := glance.Refused.Load(); n > 0 {
		t.Errorf("glance has refused %d tokens", n)
	}
	login(t, "a").remove(t, e.ID)
}
