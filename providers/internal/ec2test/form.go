package ec2test

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"time"
)

// form is an upload by a form with a policy, signed with version 2: the way by which nodes
// store bundles. The checks are those of UploadPolicyChecker.java.
func (s *Store) form(r *http.Request, bucket string, body []byte) (int, []byte, *refusal) {
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return 0, nil, refuse(http.StatusBadRequest, "MalformedPOSTRequest", "%v", err)
	}
	fields := map[string]string{}
	var file []byte
	for in := multipart.NewReader(bytes.NewReader(body), params["boundary"]); file == nil; {
		part, err := in.NextPart()
		if err != nil {
			return 0, nil, refuse(http.StatusBadRequest, "MalformedPOSTRequest", "there is no file: %v", err)
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return 0, nil, refuse(http.StatusBadRequest, "MalformedPOSTRequest", "%v", err)
		}
		if part.FormName() == "file" {
			file = append([]byte{}, content...)
			break
		}
		fields[part.FormName()] = string(content)
	}
	account := s.c.byKey(fields["AWSAccessKeyId"])
	if account == nil || account.Token != fields["x-amz-security-token"] {
		return 0, nil, refuse(http.StatusForbidden, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
	}
	if fields["policy"] == "" || fields["signature"] != mac1(account.Secret, fields["policy"]) {
		return 0, nil, refuse(http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
	}
	fields["bucket"] = bucket
	if e := s.c.meets(fields); e != nil {
		return 0, nil, e
	}
	owner := s.owner(bucket)
	switch {
	case owner == nil:
		return 0, nil, refuse(http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist")
	case owner != account:
		return 0, nil, denied()
	case fields["key"] == "" || !slices.Contains(canned, fields["acl"]):
		return 0, nil, refuse(http.StatusBadRequest, "InvalidArgument", "key %q, acl %q", fields["key"], fields["acl"])
	}
	if err := s.direct(http.MethodPut, bucket, fields["key"], file, nil); err != nil {
		return 0, nil, refuse(http.StatusInternalServerError, "InternalError", "%v", err)
	}
	s.remember(bucket, fields["key"], object{account, fields["acl"]})
	return http.StatusNoContent, nil, nil
}

// meets tells whether fields are what their policy allows.
func (c *Cloud) meets(fields map[string]string) *refusal {
	bad := func(format string, args ...any) *refusal {
		return refuse(http.StatusForbidden, "AccessDenied", "Invalid according to Policy: "+format, args...)
	}
	text, err := base64.StdEncoding.DecodeString(fields["policy"])
	var p struct {
		Expiration string
		Conditions []any
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "InvalidPolicyDocument", "%v", err)
	}
	if until, err := time.Parse(time.RFC3339, p.Expiration); err != nil || c.o.Now().After(until) {
		return bad("Policy expired: %q", p.Expiration)
	}
	named := []string{"AWSAccessKeyId", "signature", "policy", "bucket"}
	for _, condition := range p.Conditions {
		switch condition := condition.(type) {
		case map[string]any:
			for k, v := range condition {
				named = append(named, k)
				if fields[k] != v {
					return bad("%s is %q, not %v", k, fields[k], v)
				}
			}
		case []any:
			if len(condition) != 3 {
				return bad("a condition of %d", len(condition))
			}
			how, _ := condition[0].(string)
			field, _ := condition[1].(string)
			value, _ := condition[2].(string)
			field = strings.TrimPrefix(field, "$")
			named = append(named, field)
			if how == "eq" && fields[field] != value || how == "starts-with" && !strings.HasPrefix(fields[field], value) {
				return bad("%s is %q", field, fields[field])
			}
		}
	}
	for field := range fields {
		if !slices.Contains(named, field) && !strings.HasPrefix(field, "x-ignore-") && !strings.EqualFold(field, "content-type") {
			return bad("Extra input fields: %s", field)
		}
	}
	return nil
}

// md5sum is the MD5 as Content-MD5 has it.
func md5sum(p []byte) string {
	s := md5.Sum(p)
	return base64.StdEncoding.EncodeToString(s[:])
}
