package openstack

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"chromogenic/disk"
	"chromogenic/providers"
)

// An image is shared with its members: projects that its owner has named. Each has to
// accept it before Glance lists it there. Members are of images alone that have the
// visibility "shared"; without a member that is the same as private, so that an image
// which loses its last one is made private again.

// Share adds members to an image, its kernel and its ramdisk first.
func (p *Provider) Share(ctx context.Context, e providers.Entry, projects []string) ([]string, error) {
	notes, err := p.changeMembers(ctx, e, projects, p.share)
	if err != nil {
		return notes, fmt.Errorf("share %q: %w", e.Name, err)
	}
	return notes, nil
}

// Unshare removes members of an image, and of what no other image needs that is shared
// with them.
func (p *Provider) Unshare(ctx context.Context, e providers.Entry, projects []string) ([]string, error) {
	notes, err := p.changeMembers(ctx, e, projects, p.unshare)
	if err != nil {
		return notes, fmt.Errorf("unshare %q: %w", e.Name, err)
	}
	return notes, nil
}

func (p *Provider) changeMembers(ctx context.Context, e providers.Entry, projects []string, change func(context.Context, *record, []string) ([]string, error)) ([]string, error) {
	r, err := p.same(ctx, e)
	if err != nil {
		return nil, err
	}
	if err := p.owned(ctx, r); err != nil {
		return nil, err
	}
	var ids []string
	for _, project := range projects {
		id, err := p.project(ctx, project)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return change(ctx, r, ids)
}

// owned refuses the image of another project, whose members are not ours to choose.
func (p *Provider) owned(ctx context.Context, r *record) error {
	s, err := p.client.account(ctx)
	if err != nil || s.project == "" || r.Owner == s.project {
		return err
	}
	err = disk.Errorf(disk.Denied, "it is of project %s, which alone can say with whom it is shared", r.Owner)
	return disk.Hint(err, "copy it into this project, and share the copy")
}

// share shares an image of ours.
func (p *Provider) share(ctx context.Context, r *record, ids []string) (notes []string, err error) {
	if r.Visibility != "private" && r.Visibility != "shared" {
		err := disk.Errorf(disk.Invalid, "it is %s, so that every project can read it", r.Visibility)
		return nil, disk.Hint(err, "make it private first: openstack image set --private %s", r.ID)
	}
	// First what it needs: who accepts the image at once must be able to boot it.
	set := []*record{}
	for _, role := range providers.Roles() {
		c, note, err := p.sharedToo(ctx, r, role)
		if err != nil {
			return nil, err
		}
		if note != "" {
			notes = append(notes, note)
		}
		if c != nil {
			set = append(set, c)
		}
	}
	for _, x := range append(set, r) {
		what := "image"
		if role := x.role(); role != "" {
			what = string(role)
		}
		if x.Visibility == "private" {
			if _, err := p.patch(ctx, x.ID, []change{put(x, "visibility", "shared")}); err != nil {
				return notes, fmt.Errorf("make %s %s shared: %w", what, x.ID, err)
			}
			notes = append(notes, fmt.Sprintf("the visibility of %s %s was private, and is shared now", what, x.ID))
		}
		for _, id := range ids {
			_, err := p.client.call(ctx, request{
				service: imageService, method: http.MethodPost, path: "/images/" + x.ID + "/members", json: map[string]string{"member": id},
				ok: []int{http.StatusOK, http.StatusConflict}, // it is one already
			}, nil)
			if err != nil {
				return notes, fmt.Errorf("share %s %s with project %s: %w", what, x.ID, id, err)
			}
		}
	}
	return notes, nil
}

// sharedToo is the companion of an image that is to be shared with it; nil where there
// is none, or nothing to be done, with a note of why.
func (p *Provider) sharedToo(ctx context.Context, r *record, role providers.Role) (*record, string, error) {
	id := r.props[companionProp(role)]
	if id == "" {
		return nil, "", nil
	}
	c, err := p.record(ctx, id)
	switch {
	case disk.KindOf(err) == disk.NotFound:
		return nil, fmt.Sprintf("its %s %s is not there, or not shared with this project", role, id), nil
	case err != nil:
		return nil, "", err
	case c.Visibility != "private" && c.Visibility != "shared":
		return nil, "", nil // everybody can read it
	}
	if err := p.owned(ctx, c); err != nil {
		if disk.KindOf(err) != disk.Denied {
			return nil, "", err
		}
		return nil, fmt.Sprintf("its %s %s is of project %s, which has to share it too", role, id, c.Owner), nil
	}
	return c, "", nil
}

// unshare ends what share has begun.
func (p *Provider) unshare(ctx context.Context, r *record, ids []string) (notes []string, err error) {
	note, err := p.dropMembers(ctx, r, ids)
	if err != nil {
		return nil, err
	}
	notes = append(notes, note...)
	records, err := p.records(ctx, nil)
	if err != nil {
		return notes, err
	}
	all := byID(records)
	for _, role := range providers.Roles() {
		c := all[r.props[companionProp(role)]]
		if c == nil || p.owned(ctx, c) != nil || c.Visibility != "shared" {
			continue
		}
		gone := []string{}
		for _, id := range ids {
			user, err := p.neededBy(ctx, records, c.ID, r.ID, id)
			if err != nil {
				return notes, err
			}
			if user == "" {
				gone = append(gone, id)
				continue
			}
			notes = append(notes, fmt.Sprintf("its %s %s stays shared with project %s, for image %s boots with it too", role, c.ID, id, user))
		}
		note, err := p.dropMembers(ctx, c, gone)
		if err != nil {
			return notes, fmt.Errorf("its %s: %w", role, err)
		}
		notes = append(notes, note...)
	}
	return notes, nil
}

// neededBy is an image, but for one, that boots with a companion and is shared with a
// project; empty for none.
func (p *Provider) neededBy(ctx context.Context, records []record, companion, but, project string) (string, error) {
	for _, r := range records {
		uses := slices.ContainsFunc(providers.Roles(), func(role providers.Role) bool { return r.props[companionProp(role)] == companion })
		if !uses || r.ID == but || r.Visibility != "shared" || p.owned(ctx, &r) != nil {
			continue
		}
		members, err := p.members(ctx, r.ID)
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(members, func(m providers.Member) bool { return m.ID == project }) {
			return r.ID, nil
		}
	}
	return "", nil
}

// dropMembers removes members of one image, which is private again without any.
func (p *Provider) dropMembers(ctx context.Context, r *record, ids []string) (notes []string, err error) {
	if r.Visibility != "shared" || len(ids) == 0 {
		return nil, nil
	}
	for _, id := range ids {
		_, err := p.client.call(ctx, request{
			service: imageService, method: http.MethodDelete, path: "/images/" + r.ID + "/members/" + url.PathEscape(id),
			ok: []int{http.StatusNoContent, http.StatusNotFound},
		}, nil)
		if err != nil {
			return nil, fmt.Errorf("take image %s from project %s: %w", r.ID, id, err)
		}
	}
	left, err := p.members(ctx, r.ID)
	if err != nil || len(left) > 0 {
		return nil, err
	}
	if _, err := p.patch(ctx, r.ID, []change{put(r, "visibility", "private")}); err != nil {
		return nil, fmt.Errorf("make image %s private: %w", r.ID, err)
	}
	return []string{fmt.Sprintf("image %s has no members any more, and is private now", r.ID)}, nil
}

// Members are the projects that an image is shared with. Who is one sees itself alone.
func (p *Provider) Members(ctx context.Context, e providers.Entry) ([]providers.Member, error) {
	r, err := p.same(ctx, e)
	if err == nil && r.Visibility != "shared" {
		return nil, nil // of others Glance tells none
	}
	var members []providers.Member
	if err == nil {
		members, err = p.members(ctx, r.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("list members of %q: %w", e.Name, err)
	}
	names, err := p.projects(ctx)
	if err != nil {
		names = nil // they are for people, and ids do
	}
	for i := range members {
		members[i].Name = names[members[i].ID]
	}
	return members, nil
}

func (p *Provider) members(ctx context.Context, id string) ([]providers.Member, error) {
	var answer struct {
		Members []struct {
			Member  string `json:"member_id"`
			Status  string `json:"status"`
			Updated string `json:"updated_at"`
		} `json:"members"`
	}
	_, err := p.client.call(ctx, request{service: imageService, method: http.MethodGet, path: "/images/" + id + "/members", ok: []int{http.StatusOK}}, &answer)
	var all []providers.Member
	for _, m := range answer.Members {
		all = append(all, providers.Member{ID: m.Member, Status: m.Status, Updated: parseTime(m.Updated)})
	}
	slices.SortFunc(all, func(a, b providers.Member) int { return strings.Compare(a.ID, b.ID) })
	return all, err
}

// Answer accepts or rejects an image, and what it boots with as far as that is shared
// too.
func (p *Provider) Answer(ctx context.Context, e providers.Entry, accept bool) error {
	r, err := p.same(ctx, e)
	if err == nil {
		err = p.answer(ctx, r.ID, accept)
	}
	for _, role := range providers.Roles() {
		if err != nil || r.props[companionProp(role)] == "" {
			continue
		}
		if err = p.answer(ctx, r.props[companionProp(role)], accept); disk.KindOf(err) == disk.NotFound {
			err = nil // it is not shared, or not there; the listing tells
		}
	}
	if err != nil {
		return fmt.Errorf("answer to the offer of %q: %w", e.Name, err)
	}
	return nil
}

func (p *Provider) answer(ctx context.Context, image string, accept bool) error {
	s, err := p.client.account(ctx)
	if err != nil {
		return err
	}
	status := providers.MemberRejected
	if accept {
		status = providers.MemberAccepted
	}
	_, err = p.client.call(ctx, request{
		service: imageService, method: http.MethodPut, path: "/images/" + url.PathEscape(image) + "/members/" + s.project,
		json: map[string]string{"status": status}, ok: []int{http.StatusOK},
	}, nil)
	if disk.KindOf(err) == disk.NotFound {
		err = disk.Errorf(disk.NotFound, "it is not shared with this project: %w", err)
	}
	return err
}

// Offers are the images that others share with this project, and that it has not
// accepted. What they boot with is answered with them.
func (p *Provider) Offers(ctx context.Context) ([]providers.Offer, error) {
	var offers []providers.Offer
	for _, status := range []string{providers.MemberPending, providers.MemberRejected} {
		found, err := p.records(ctx, url.Values{"visibility": {"shared"}, "member_status": {status}})
		if err != nil {
			return nil, fmt.Errorf("list offers: %w", err)
		}
		all := byID(found)
		for _, r := range found {
			if r.isCompanion() || r.props[propState] != "" || p.owned(ctx, &r) == nil {
				continue
			}
			e := r.entry(p)
			r.beside(&e, all)
			offers = append(offers, providers.Offer{Entry: e, Owner: r.Owner, Answer: status})
		}
	}
	return offers, nil
}

// projectID is how Keystone writes the id of a project: a UUID, without hyphens.
var projectID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// project is the id of a project that is named by that, or by its name. Most users may
// not ask for any project but their own: then an id is taken as it is, for Glance asks
// nobody either.
func (p *Provider) project(ctx context.Context, name string) (string, error) {
	mine, err := p.projects(ctx)
	if err != nil {
		return "", err
	}
	if _, ok := mine[name]; ok {
		return name, nil
	}
	var found []string
	for id, n := range mine {
		if n == name {
			found = append(found, id)
		}
	}
	if len(found) == 0 {
		if found, err = p.foreignProject(ctx, name); err != nil {
			return "", err
		}
	}
	switch len(found) {
	case 0:
		err := disk.Errorf(disk.NotFound, "find project %q: there is none, or this user may not see it", name)
		return "", disk.Hint(err, "name it by its id, which its owner knows: openstack project show -c id NAME")
	case 1:
		return found[0], nil
	}
	return "", disk.Hint(disk.Errorf(disk.Invalid, "find project %q: %d have that name", name, len(found)), "name it by its id: %s", strings.Join(found, ", "))
}

// foreignProject asks for a project in which this user has no role.
func (p *Provider) foreignProject(ctx context.Context, name string) ([]string, error) {
	var answer struct {
		Project  struct{ ID string }
		Projects []struct{ ID string }
	}
	q := request{service: identityService, method: http.MethodGet, path: "/projects", query: url.Values{"name": {name}}, ok: []int{http.StatusOK}}
	isID := projectID.MatchString(name)
	if isID {
		q.path, q.query = "/projects/"+name, nil
	}
	_, err := p.client.call(ctx, q, &answer)
	switch kind := disk.KindOf(err); {
	case kind == disk.Denied && isID:
		return []string{name}, nil
	case kind == disk.Denied || kind == disk.NotFound:
		return nil, nil
	case err != nil:
		return nil, err
	case isID:
		return []string{answer.Project.ID}, nil
	}
	var ids []string
	for _, x := range answer.Projects {
		ids = append(ids, x.ID)
	}
	return ids, nil
}

// projects are those in which this user has a role: their names by their ids.
func (p *Provider) projects(ctx context.Context) (map[string]string, error) {
	var answer struct {
		Projects []struct{ ID, Name string }
	}
	_, err := p.client.call(ctx, request{service: identityService, method: http.MethodGet, path: "/auth/projects", ok: []int{http.StatusOK}}, &answer)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, x := range answer.Projects {
		names[x.ID] = x.Name
	}
	return names, nil
}
