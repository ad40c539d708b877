package ec2test

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

func (c *Cloud) describeImageAttribute(q *query) (any, *refusal) {
	i, e := c.image(q, q.form.Get("ImageId"))
	if e != nil {
		return nil, e
	}
	type permission struct {
		UserID string `xml:"userId,omitempty"`
		Group  string `xml:"group,omitempty"`
	}
	out := struct {
		ID          string       `xml:"imageId"`
		Launch      []permission `xml:"launchPermission>item"`
		Description *struct {
			Value string `xml:"value"`
		} `xml:"description"`
	}{ID: i.id}
	switch a := q.form.Get("Attribute"); a {
	case "launchPermission":
		if i.owner != q.who && !q.admin {
			return nil, failure("Not authorized to describe image attribute")
		}
		for _, number := range i.launch {
			out.Launch = append(out.Launch, permission{UserID: number})
		}
		if i.public {
			out.Launch = append(out.Launch, permission{Group: "all"})
		}
	case "description":
		out.Description = &struct {
			Value string `xml:"value"`
		}{i.description}
	default:
		return nil, refuse(http.StatusBadRequest, "InvalidParameterValue", "attribute %q", a)
	}
	return out, nil
}

var accountNumber = regexp.MustCompile(`^\d{12}$`)

func (c *Cloud) modifyImageAttribute(q *query) (any, *refusal) {
	i, e := c.owned(q, "modify image attribute")
	if e != nil {
		return nil, e
	}
	if q.form.Has("Description.Value") || q.form.Has("Description") {
		i.description = q.form.Get("Description.Value") + q.form.Get("Description")
		return done{true}, nil
	}
	changed := false
	for _, way := range []string{"Add", "Remove"} {
		for n := 1; ; n++ {
			p := fmt.Sprintf("LaunchPermission.%s.%d.", way, n)
			user, group := q.form.Get(p+"UserId"), q.form.Get(p+"Group")
			switch {
			case user == "" && group == "":
			case user != "" && !accountNumber.MatchString(user):
				return nil, failure("Not a valid userId : %s", user)
			case group != "" && group != "all":
				return nil, refuse(http.StatusBadRequest, "InvalidParameterValue", "group %q", group)
			case group != "":
				i.public, changed = way == "Add", true
			default:
				i.launch = slices.DeleteFunc(i.launch, func(o string) bool { return o == user })
				if way == "Add" {
					i.launch = append(i.launch, user)
				}
				changed = true
			}
			if user == "" && group == "" {
				break
			}
		}
		if changed {
			return done{true}, nil // the source looks at one of them
		}
	}
	return nil, refuse(http.StatusBadRequest, "InvalidParameterCombination", "No attributes specified.")
}

func (c *Cloud) resetImageAttribute(q *query) (any, *refusal) {
	i, e := c.owned(q, "reset image attribute")
	if e != nil {
		return nil, e
	}
	i.public, i.launch = false, nil
	return done{true}, nil
}

// known tells whether there is a thing that an account may tag.
func (c *Cloud) known(q *query, id string) bool {
	for _, i := range c.images {
		if i.id == id && (i.sees(q.who) || q.admin) {
			return true
		}
	}
	for _, v := range c.instances {
		if v.ID == id && v.owner == q.who {
			return true
		}
	}
	return false
}

// maxTags is how many tags a thing may have: the limit of EC2 until 2016.
const maxTags = 10

func (c *Cloud) createTags(q *query) (any, *refusal) {
	ids := q.list("ResourceId")
	for _, id := range ids {
		if !c.known(q, id) {
			return nil, refuse(http.StatusBadRequest, "InvalidID", "The ID '%s' is not valid", id)
		}
	}
	set := map[string]string{}
	for n := 1; q.form.Has(fmt.Sprintf("Tag.%d.Key", n)); n++ {
		key := q.form.Get(fmt.Sprintf("Tag.%d.Key", n))
		value := q.form.Get(fmt.Sprintf("Tag.%d.Value", n))
		switch {
		case key == "" || len(key) > 128 || strings.HasPrefix(key, "aws:") || strings.HasPrefix(key, "euca:"):
			return nil, refuse(http.StatusBadRequest, "InvalidParameterValue", "Invalid tag key (%s)", key)
		case len(value) > 256:
			return nil, refuse(http.StatusBadRequest, "InvalidParameterValue", "Invalid tag value (max length 256) %s", value)
		}
		set[key] = value
	}
	for _, id := range ids {
		if c.tags[id] == nil {
			c.tags[id] = map[string]string{}
		}
		maps.Copy(c.tags[id], set)
		if len(c.tags[id]) > maxTags {
			return nil, refuse(http.StatusBadRequest, "TagLimitExceeded", "The maximum number of tags for a resource has been reached.")
		}
	}
	return done{true}, nil
}

func (c *Cloud) deleteTags(q *query) (any, *refusal) {
	for _, id := range q.list("ResourceId") {
		if !c.known(q, id) {
			return nil, refuse(http.StatusBadRequest, "InvalidID", "The ID '%s' is not valid", id)
		}
		for n := 1; q.form.Has(fmt.Sprintf("Tag.%d.Key", n)); n++ {
			key, want := q.form.Get(fmt.Sprintf("Tag.%d.Key", n)), fmt.Sprintf("Tag.%d.Value", n)
			if !q.form.Has(want) || c.tags[id][key] == q.form.Get(want) {
				delete(c.tags[id], key)
			}
		}
	}
	return done{true}, nil
}

func (c *Cloud) tagItems(id string) []tagItem {
	var l []tagItem
	for _, k := range slices.Sorted(maps.Keys(c.tags[id])) {
		l = append(l, tagItem{k, c.tags[id][k]})
	}
	return l
}

// aboutTags is what a thing is by "tag:key", "tag-key" and "tag-value".
func (c *Cloud) aboutTags(id, name string) ([]string, bool) {
	if key, ok := filterTag(name); ok {
		if v, ok := c.tags[id][key]; ok {
			return []string{v}, true
		}
		return nil, true
	}
	switch name {
	case "tag-key":
		return slices.Collect(maps.Keys(c.tags[id])), true
	case "tag-value":
		return slices.Collect(maps.Values(c.tags[id])), true
	}
	return nil, false
}

// describeSecurityGroups knows the one that every account has.
func (c *Cloud) describeSecurityGroups(q *query) (any, *refusal) {
	type group struct {
		Owner       string `xml:"ownerId"`
		ID          string `xml:"groupId"`
		Name        string `xml:"groupName"`
		Description string `xml:"groupDescription"`
	}
	g := group{q.who.Number, "sg-" + q.who.Number[4:], "default", "default group"}
	passes, e := match(q.filters(), func(name string) ([]string, bool) {
		switch name {
		case "group-name":
			return []string{g.Name}, true
		case "owner-id":
			return []string{g.Owner}, true
		}
		return nil, false
	})
	if e != nil {
		return nil, e
	}
	var out struct {
		Items []group `xml:"securityGroupInfo>item"`
	}
	if passes {
		out.Items = append(out.Items, g)
	}
	return out, nil
}
