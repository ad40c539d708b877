package openstack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A server is what Nova knows of an instance.
type server struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Status    string            `json:"status"`
	Created   string            `json:"created"`
	Updated   string            `json:"updated"`
	Metadata  map[string]string `json:"metadata"`
	TaskState string            `json:"OS-EXT-STS:task_state"`
	Image     image             `json:"image"`
	Flavor    struct {
		Disk int64 `json:"disk"` // GiB; 0 is as large as the image
	} `json:"flavor"`
	Volumes []struct {
		ID string `json:"id"`
	} `json:"os-extended-volumes:volumes_attached"`

	cinder bool // the cloud has a block storage service
}

// An image is that of a server: "" where it has booted from a volume.
type image struct{ ID string }

// UnmarshalJSON takes the object, and the empty text.
func (i *image) UnmarshalJSON(p []byte) error {
	if len(p) > 0 && p[0] == '"' {
		return nil
	}
	var full struct{ ID string }
	err := json.Unmarshal(p, &full)
	i.ID = full.ID
	return err
}

// microversion 2.47 puts the flavor into the server, so that no flavor is asked for.
func microversion() map[string]string {
	return map[string]string{"X-OpenStack-Nova-API-Version": "2.47", "OpenStack-API-Version": "compute 2.47"}
}

func (p *Provider) listInstances(ctx context.Context) ([]providers.Entry, error) {
	session, err := p.client.account(ctx)
	if err != nil {
		return nil, err
	}
	var entries []providers.Entry
	if session.endpoints[computeService] != "" {
		servers, err := p.servers(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range servers {
			s.cinder = session.volumes
			entries = append(entries, s.entry())
		}
	}
	captures, err := p.captures(ctx)
	return append(entries, captures...), err
}

func (p *Provider) servers(ctx context.Context) ([]server, error) {
	query, seen := url.Values{"limit": {pageSize}}, map[string]bool{}
	var all []server
	for {
		var page struct {
			Servers []server `json:"servers"`
			Links   []struct {
				Rel, Href string
			} `json:"servers_links"`
		}
		_, err := p.client.call(ctx, request{
			service: computeService, method: http.MethodGet, path: "/servers/detail", query: query,
			header: microversion(), ok: []int{http.StatusOK},
		}, &page)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Servers...)
		next := ""
		for _, l := range page.Links {
			if l.Rel == "next" {
				next = l.Href
			}
		}
		if next == "" {
			return all, nil
		}
		if query, err = nextQuery(next, seen); err != nil {
			return nil, err
		}
	}
}

// server is an instance by its id.
func (p *Provider) server(ctx context.Context, id string) (*server, error) {
	var answer struct{ Server server }
	session, err := p.client.account(ctx)
	if err != nil {
		return nil, err
	}
	_, err = p.client.call(ctx, request{
		service: computeService, method: http.MethodGet, path: "/servers/" + url.PathEscape(id),
		header: microversion(), ok: []int{http.StatusOK},
	}, &answer)
	answer.Server.cinder = session.volumes
	return &answer.Server, err
}

// entry is the server as a listing shows it: its boot disk, as large as the flavor
// says. The size of one that is as large as its image is known when it is opened.
func (s *server) entry() providers.Entry {
	e := providers.Entry{
		Kind: providers.Instances, ID: s.ID, Name: s.Name, Status: s.Status, Format: "raw",
		Created: parseTime(s.Created), Updated: parseTime(s.Updated), Size: -1, VirtualSize: -1,
		Version: s.Updated + "/" + s.Status,
	}
	if s.Flavor.Disk > 0 {
		e.VirtualSize = s.Flavor.Disk << 30
	}
	for i, v := range s.Volumes {
		e.Props = with(e.Props, fmt.Sprintf("volume.%d", i), v.ID)
	}
	e.Reason = s.reason()
	if n := len(s.Volumes); n > 0 && e.Reason == "" {
		e.LeftOut = fmt.Sprintf("its %d attached volumes are not captured, its boot disk alone is: the properties volume.0 and so on name them", n)
	}
	return e
}

// reason is why the server cannot be captured.
func (s *server) reason() string {
	switch {
	case s.Image.ID == "" && s.cinder && len(s.Volumes) > 0:
		return "it has booted from a volume, which can be read as an image of it: openstack image create --force --volume " + s.Volumes[0].ID + " NAME"
	case s.Image.ID == "":
		return "it has booted from a volume, and this cloud has no block storage service that reads it"
	case s.Status == "ACTIVE", s.Status == "SHUTOFF", s.Status == "PAUSED", s.Status == "SUSPENDED":
		return ""
	}
	return "its status is " + s.Status
}

// A promised disk is that of a live server: of a known size, without bytes until it is
// captured.
type promised struct{ size int64 }

func (d promised) Size() int64 { return d.size }

func (d promised) Close() error { return nil }

func (d promised) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, d.size)
	return disk.Extent{Off: off, Len: n}, err
}

func (d promised) ReadAt([]byte, int64) (int, error) {
	return 0, disk.Hint(disk.Errorf(disk.Policy, "read instance: its disk can be read as a capture only"),
		"chromogenic capture makes one")
}
