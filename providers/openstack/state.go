package openstack

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/process"
)

// working tells whether somebody may still work on a record that has a state.
func (p *Provider) working(r *record) bool {
	if p.owns(r.ID) {
		return true
	}
	return process.Works(r.props[propHost], parseTime(r.Updated))
}

// Leftovers are the uploads and snapshots of this project that nobody works on any
// longer, by the job and the image's id. The kernel and the ramdisk of an image that is
// there are finished instead.
func (p *Provider) Leftovers(ctx context.Context) ([]string, error) {
	var ids []string
	for _, state := range []string{stateUpload, stateCommit, stateSnapshot} {
		found, err := p.inState(ctx, state)
		if err != nil {
			return nil, fmt.Errorf("look for leftovers: %w", err)
		}
		found = slices.DeleteFunc(found, func(r record) bool { return p.working(&r) })
		adopted, err := p.adopt(ctx, found)
		if err != nil {
			return nil, fmt.Errorf("look for leftovers: %w", err)
		}
		for _, r := range found {
			if !adopted[r.ID] {
				ids = append(ids, r.props[propJob]+"/"+r.ID)
			}
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Release removes a snapshot, or one of Leftovers. One that is gone is released.
func (p *Provider) Release(ctx context.Context, id string) error {
	image := id[strings.LastIndex(id, "/")+1:]
	r, err := p.record(ctx, image)
	if disk.KindOf(err) == disk.NotFound {
		p.own(image, false)
		return nil
	}
	if err == nil && (r.props[propState] == "" || r.props[propState] == stateCapture || r.props[propState] == stateWaiting) {
		err = disk.Errorf(disk.NotFound, "it is no snapshot")
	}
	if err == nil {
		defer p.own(image, false) // what cannot be removed is left over
		err = p.remove(ctx, image)
	}
	if err != nil {
		return fmt.Errorf("release snapshot %q: %w", id, err)
	}
	return nil
}

// deleteTime is how long the service may take to delete an image: it answers when its
// store has done so.
const deleteTime = 5 * time.Minute

// remove deletes an image. One that is gone is removed.
func (p *Provider) remove(ctx context.Context, id string) error {
	_, err := p.client.call(ctx, request{
		service: imageService, method: http.MethodDelete, path: "/images/" + id, ok: []int{http.StatusNoContent, http.StatusNotFound},
		patience: deleteTime,
	}, nil)
	return err
}

// A change is one of a record, as JSON Patch has it.
type change struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// patch changes a record.
func (p *Provider) patch(ctx context.Context, id string, changes []change) (*record, error) {
	r, err := p.patchOnce(ctx, id, changes)
	if disk.KindOf(err) != disk.Busy || !slices.ContainsFunc(changes, func(c change) bool { return c.Op == "remove" }) {
		return r, err
	}
	// Nothing can be removed twice: a request whose answer was lost may have done it.
	now, failed := p.record(ctx, id)
	if failed != nil {
		return r, err
	}
	rest := slices.DeleteFunc(slices.Clone(changes), func(c change) bool {
		_, there := now.props[strings.TrimPrefix(c.Path, "/")]
		return c.Op == "remove" && !there
	})
	if len(rest) == len(changes) {
		return r, err
	}
	return p.patchOnce(ctx, id, rest)
}

func (p *Provider) patchOnce(ctx context.Context, id string, changes []change) (*record, error) {
	if len(changes) == 0 {
		return p.record(ctx, id)
	}
	r := &record{}
	_, err := p.client.call(ctx, request{
		service: imageService, method: http.MethodPatch, path: "/images/" + id, json: changes,
		header: map[string]string{"Content-Type": "application/openstack-images-v2.1-json-patch"},
		ok:     []int{http.StatusOK},
	}, r)
	return r, err
}

// put sets a key of a record, or adds a property. A property that is empty is kept so.
func put(r *record, key string, value any) change {
	op := "add"
	if _, ok := r.props[key]; ok || ofRecord(key) {
		op = "replace"
	}
	if s, ok := value.(string); ok && s == "" {
		value = emptyText{}
	}
	return change{op, pointer(key), value}
}

// An emptyText is one that omitempty leaves in.
type emptyText struct{}

// MarshalJSON is the empty text.
func (emptyText) MarshalJSON() ([]byte, error) { return []byte(`""`), nil }

func drop(key string) change { return change{Op: "remove", Path: pointer(key)} }

// pointer is the JSON pointer to a key.
func pointer(key string) string {
	return "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// Delete removes an image for good, with a kernel and a ramdisk that no other image boots
// with. One that was changed since it was listed stays.
func (p *Provider) Delete(ctx context.Context, e providers.Entry) error {
	err := p.delete(ctx, e)
	if err != nil {
		return fmt.Errorf("delete %q: %w", e.Name, err)
	}
	return nil
}

func (p *Provider) delete(ctx context.Context, e providers.Entry) error {
	if e.Kind != providers.Images {
		return disk.Errorf(disk.Unsupported, "only images can be deleted")
	}
	r, err := p.same(ctx, e)
	if err != nil {
		return err
	}
	if r.Protected {
		return disk.Hint(disk.Errorf(disk.Busy, "it is protected"), "openstack image set --unprotect %s", r.ID)
	}
	goes, _, err := p.orphans(ctx, r)
	if err != nil {
		return err
	}
	if err := p.remove(ctx, r.ID); err != nil {
		return err
	}
	return p.dropOrphans(ctx, goes)
}

// same is the record of an image whose bytes are those that were listed.
func (p *Provider) same(ctx context.Context, e providers.Entry) (*record, error) {
	if e.Kind != providers.Images {
		return nil, disk.Errorf(disk.Unsupported, "it is no image")
	}
	r, err := p.record(ctx, e.ID)
	if err == nil && ofBytes(r.version(r.metadata())) != ofBytes(e.Version) {
		err = disk.Errorf(disk.Stale, "it has changed since it was listed")
	}
	return r, err
}

// Rename gives an image another name.
func (p *Provider) Rename(ctx context.Context, e providers.Entry, name string) (providers.Entry, error) {
	now, err := p.rename(ctx, e, name)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("rename %q to %q: %w", e.Name, name, err)
	}
	return now.entry(p), nil
}

func (p *Provider) rename(ctx context.Context, e providers.Entry, name string) (*record, error) {
	r, err := p.same(ctx, e)
	if err != nil {
		return nil, err
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := p.refuseTaken(ctx, name, r.ID); err != nil {
		return nil, err
	}
	return p.patch(ctx, r.ID, []change{put(r, "name", name)})
}

// maxName is how many characters a name of Glance may have.
const maxName = 255

func checkName(name string) error {
	if n := len([]rune(name)); n == 0 || n > maxName {
		return disk.Errorf(disk.Invalid, "a name of %d characters, it may have 1 to %d", n, maxName)
	}
	return nil
}

// refuseTaken fails where another image than own has the name.
func (p *Provider) refuseTaken(ctx context.Context, name string, own ...string) error {
	found, err := p.named(ctx, name)
	if err != nil {
		return err
	}
	for _, r := range found {
		if r.props[propState] == "" && !slices.Contains(own, r.ID) {
			return disk.Errorf(disk.Exists, "image %s has that name", r.ID)
		}
	}
	return nil
}
