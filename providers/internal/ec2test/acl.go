package ec2test

import (
	"encoding/xml"
	"fmt"
)

// An object is what s3rver does not know of one.
type object struct {
	owner *Account
	acl   string // canned
}

// mayRead tells whether somebody may read an object; nil is nobody in particular. The
// cloud reads what is made for it: aws-exec-read is what bundles are uploaded with,
// ec2-bundle-read what those of BundleInstance have.
func (o object) mayRead(who *Account, cloud bool) bool {
	switch o.acl {
	case "public-read", "public-read-write":
		return true
	case "authenticated-read":
		return who != nil || cloud
	case "aws-exec-read", "ec2-bundle-read":
		if cloud {
			return true
		}
	}
	return who != nil && who == o.owner
}

// canned are the ACLs that there are.
var canned = []string{"private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read", "ec2-bundle-read", "bucket-owner-read", "bucket-owner-full-control", "log-delivery-write"}

// policyOf writes an ACL out.
func policyOf(o object) []byte {
	const all, authenticated = "http://acs.amazonaws.com/groups/global/AllUsers", "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
	grant := func(grantee, permission string) string {
		return fmt.Sprintf(`<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" %s</Grantee><Permission>%s</Permission></Grant>`, grantee, permission)
	}
	grants := grant(fmt.Sprintf(`xsi:type="CanonicalUser"><ID>%s</ID><DisplayName>%s</DisplayName>`, o.owner.Number, o.owner.Name), "FULL_CONTROL")
	switch o.acl {
	case "public-read":
		grants += grant(`xsi:type="Group"><URI>`+all+`</URI>`, "READ")
	case "authenticated-read":
		grants += grant(`xsi:type="Group"><URI>`+authenticated+`</URI>`, "READ")
	case "aws-exec-read", "ec2-bundle-read":
		grants += grant(`xsi:type="CanonicalUser"><ID>000000000001</ID><DisplayName>`+o.acl+`</DisplayName>`, "READ")
	}
	return []byte(fmt.Sprintf(`%s<AccessControlPolicy xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>%s</ID><DisplayName>%s</DisplayName></Owner><AccessControlList>%s</AccessControlList></AccessControlPolicy>`,
		xml.Header, o.owner.Number, o.owner.Name, grants))
}
