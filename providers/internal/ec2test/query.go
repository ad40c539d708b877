package ec2test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A query is one request of EC2.
type query struct {
	action string
	who    *Account
	form   url.Values
	admin  bool
}

// An action is what a query may ask for: the parameters that it knows, as a pattern, and
// what it does. The result is marshalled below the element of the response.
type action struct {
	knows string
	do    func(c *Cloud, q *query) (any, *refusal)
}

const (
	filters  = `Filter\.\d+\.(Name|Value\.\d+)`
	mappings = `BlockDeviceMapping\.\d+\.(DeviceName|VirtualName|NoDevice|Ebs\.(SnapshotId|VolumeSize|DeleteOnTermination|VolumeType|Iops))`
	userIDs  = `UserId(\.\d+)?|UserGroup(\.\d+)?|Group(\.\d+)?`
)

func actions() map[string]action {
	m := map[string]action{
		"DescribeImages":         {`ImageId\.\d+|Owner\.\d+|ExecutableBy\.\d+|` + filters, (*Cloud).describeImages},
		"RegisterImage":          {`ImageLocation|Name|Description|Architecture|KernelId|RamdiskId|RootDeviceName|VirtualizationType|Platform|` + mappings, (*Cloud).registerImage},
		"DeregisterImage":        {`ImageId`, (*Cloud).deregisterImage},
		"CreateImage":            {`InstanceId|Name|Description|NoReboot|` + mappings, (*Cloud).createImage},
		"DescribeImageAttribute": {`ImageId|Attribute`, (*Cloud).describeImageAttribute},
		"ModifyImageAttribute": {`ImageId|Attribute|OperationType|Value|Description(\.Value)?|ProductCode\.\d+|` + userIDs +
			`|LaunchPermission\.(Add|Remove)\.\d+\.(UserId|Group)`, (*Cloud).modifyImageAttribute},
		"ResetImageAttribute":    {`ImageId|Attribute`, (*Cloud).resetImageAttribute},
		"DescribeInstances":      {`InstanceId\.\d+|` + filters, (*Cloud).describeInstances},
		"BundleInstance":         {`InstanceId|Storage\.S3\.(Bucket|Prefix|AWSAccessKeyId|UploadPolicy|UploadPolicySignature)`, (*Cloud).bundleInstance},
		"DescribeBundleTasks":    {`BundleId(\.\d+)?|` + filters, (*Cloud).describeBundleTasks},
		"CancelBundleTask":       {`BundleId`, (*Cloud).cancelBundleTask},
		"CreateTags":             {`ResourceId\.\d+|Tag\.\d+\.(Key|Value)`, (*Cloud).createTags},
		"DeleteTags":             {`ResourceId\.\d+|Tag\.\d+\.(Key|Value)`, (*Cloud).deleteTags},
		"DescribeSecurityGroups": {`GroupId\.\d+|GroupName\.\d+|` + filters, (*Cloud).describeSecurityGroups},
	}
	// What Eucalyptus has by name alone: it answers, and does nothing.
	for _, stub := range []string{
		"CopyImage", "ImportImage", "ImportSnapshot", "DescribeImportImageTasks", "DescribeImportSnapshotTasks", "CancelImportTask",
		"CreateInstanceExportTask", "DescribeExportTasks", "CancelExportTask",
	} {
		m[stub] = action{`.*`, func(*Cloud, *query) (any, *refusal) { return struct{}{}, nil }}
	}
	return m
}

// failure is what Eucalyptus makes of whatever it has no code for.
func failure(format string, args ...any) *refusal {
	return refuse(http.StatusInternalServerError, "InternalFailure", format, args...)
}

// serveEC2 is the query API.
func (c *Cloud) serveEC2(w http.ResponseWriter, r *http.Request, _ string) {
	body, form, e := read(r)
	name := form.Get("Action")
	c.mu.Lock()
	c.requests[name]++
	t := trouble(c.mischief, name, form.Encode(), r.URL.Path)
	c.mu.Unlock()
	id := random(16)
	if t != nil {
		switch t.Do {
		case Status:
			if t.RetryAfter != "" {
				w.Header().Set("Retry-After", t.RetryAfter)
			}
			ec2Error(w, id, refuse(t.Status, t.Code, "%s", t.Message))
			return
		case Reset:
			breakOff(w)
			return
		}
	}
	var out any
	if e == nil {
		out, e = c.query(r, body, form)
	}
	if e != nil {
		ec2Error(w, id, e)
		return
	}
	text, err := respond(name, form.Get("Version"), id, out)
	if err != nil {
		ec2Error(w, id, failure("%v", err))
		return
	}
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	t.write(w, c.ctx.Done(), http.StatusOK, text)
}

// read takes the parameters of a request, of the URL and of a form.
func read(r *http.Request) ([]byte, url.Values, *refusal) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return nil, url.Values{}, refuse(http.StatusBadRequest, "MalformedQueryString", "%v", err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, url.Values{}, refuse(http.StatusBadRequest, "MalformedQueryString", "%v", err)
	}
	maps.Copy(form, r.URL.Query())
	return body, form, nil
}

// query does what is asked for by who may.
func (c *Cloud) query(r *http.Request, body []byte, form url.Values) (any, *refusal) {
	var who *Account
	var e *refusal
	if isV4(r) {
		who, e = c.verifyV4(r, sum256(body), false)
	} else {
		who, e = c.verifyQueryV2(r, r.URL.Path, form)
	}
	if e != nil {
		return nil, e
	}
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\d$`).MatchString(form.Get("Version")) {
		return nil, refuse(http.StatusBadRequest, "MissingParameter", "there is no Version, or %q is none", form.Get("Version"))
	}
	q := &query{action: form.Get("Action"), who: who, form: maps.Clone(form), admin: who.Admin}
	a, ok := actions()[q.action]
	if !ok {
		return nil, refuse(http.StatusBadRequest, "InvalidAction", "The action %s is not valid for this web service.", q.action)
	}
	for _, key := range []string{"Action", "Version", "AWSAccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "Timestamp", "SecurityToken"} {
		q.form.Del(key)
	}
	knows := a.knows
	if c.o.Page > 0 {
		knows += "|MaxResults|NextToken"
	}
	known := regexp.MustCompile("^(" + knows + ")$")
	unknown := ""
	for _, key := range slices.Sorted(maps.Keys(q.form)) {
		if !known.MatchString(key) {
			unknown += key + " = " + q.form.Get(key) + "\n"
		}
	}
	if unknown != "" {
		return nil, refuse(http.StatusBadRequest, "InvalidParameterValue", "Failed to bind the following fields:\n%s", unknown)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.do(c, q)
}

// list is all Name.1, Name.2, … in order.
func (q *query) list(name string) []string {
	var l []string
	for i := 1; ; i++ {
		v, ok := q.form[fmt.Sprintf("%s.%d", name, i)]
		if !ok {
			return l
		}
		l = append(l, v[0])
	}
}

// filters are those of the query: names to the values of which one must match.
func (q *query) filters() map[string][]string {
	m := map[string][]string{}
	for i := 1; ; i++ {
		name := q.form.Get(fmt.Sprintf("Filter.%d.Name", i))
		if name == "" {
			return m
		}
		m[name] = q.list(fmt.Sprintf("Filter.%d.Value", i))
	}
}

// match tells whether a thing passes all filters; about gives what it is by a filter's
// name, ok false for one that there is not.
func match(filters map[string][]string, about func(name string) (values []string, ok bool)) (bool, *refusal) {
	passes := true
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		has, ok := about(name)
		if !ok {
			return false, refuse(http.StatusBadRequest, "InvalidParameterValue", "The filter '%s' is invalid", name)
		}
		if !slices.ContainsFunc(filters[name], func(want string) bool {
			return slices.ContainsFunc(has, func(v string) bool { return wildcard(want, v) })
		}) {
			passes = false
		}
	}
	return passes, nil
}

// wildcard matches with * and ?, as filters do.
func wildcard(pattern, s string) bool {
	quoted := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern))
	ok, err := regexp.MatchString("^(?s:"+quoted+")$", s)
	return err == nil && ok
}

// window is the page of n things that a query asks for: the first, one behind the last,
// and the token of the next page.
func (c *Cloud) window(q *query, n int) (from, to int, next string, e *refusal) {
	if c.o.Page == 0 {
		return 0, n, "", nil
	}
	size := c.o.Page
	if m := q.form.Get("MaxResults"); m != "" {
		if number(m) < 5 || number(m) > 1000 {
			return 0, 0, "", refuse(http.StatusBadRequest, "InvalidParameterValue", "Value ( %s ) for parameter maxResults is invalid.", m)
		}
		size = min(size, number(m))
	}
	if token := q.form.Get("NextToken"); token != "" {
		from = number(strings.TrimPrefix(token, "page-"))
		if from < 0 || from > n {
			return 0, 0, "", refuse(http.StatusBadRequest, "InvalidParameterValue", "Value ( %s ) for parameter nextToken is invalid.", token)
		}
	}
	to = min(from+size, n)
	if to < n {
		next = fmt.Sprintf("page-%d", to)
	}
	return from, to, next, nil
}

// respond writes an answer. The elements of out stand beside the request's id.
func respond(action, version, id string, out any) ([]byte, error) {
	var b bytes.Buffer
	start := xml.StartElement{Name: xml.Name{Local: action + "Response"}, Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: "http://ec2.amazonaws.com/doc/" + version + "/"}}}
	if err := xml.NewEncoder(&b).EncodeElement(out, start); err != nil {
		return nil, err
	}
	head, rest, _ := strings.Cut(b.String(), ">")
	return []byte(xml.Header + head + "><requestId>" + id + "</requestId>" + rest), nil
}

// ec2Error is an error as Eucalyptus has them. The namespace is none.
func ec2Error(w http.ResponseWriter, id string, e *refusal) {
	var b bytes.Buffer
	b.WriteString(xml.Header + "<Response><Errors><Error><Code>")
	_ = xml.EscapeText(&b, []byte(e.code))
	b.WriteString("</Code><Message>")
	_ = xml.EscapeText(&b, []byte(e.message))
	b.WriteString("</Message></Error></Errors><RequestID>" + id + "</RequestID></Response>")
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	w.WriteHeader(e.status)
	_, _ = w.Write(b.Bytes())
}

// done is the answer of what only succeeds.
type done struct {
	Return bool `xml:"return"`
}

// serveCertificates is the service of certificates, by the name of Empyrean.
func (c *Cloud) serveCertificates(w http.ResponseWriter, r *http.Request, _ string) {
	body, form, e := read(r)
	if e == nil {
		if isV4(r) {
			_, e = c.verifyV4(r, sum256(body), false)
		} else {
			e = refuse(http.StatusForbidden, "AccessDenied", "the request has no signature of version 4")
		}
	}
	if e == nil && form.Get("Action") != "DescribeServiceCertificates" {
		e = refuse(http.StatusBadRequest, "InvalidAction", "%s", form.Get("Action"))
	}
	if e != nil {
		ec2Error(w, random(16), e)
		return
	}
	var b bytes.Buffer
	b.WriteString(xml.Header + `<euca:DescribeServiceCertificatesResponseType xmlns:euca="http://msgs.eucalyptus.com/4.4.5"><euca:correlationId>` + random(16) +
		`</euca:correlationId><euca:_return>true</euca:_return><euca:serviceCertificates>`)
	for _, usage := range []string{"image-bundling", "password-encryption"} {
		b.WriteString(`<euca:item><euca:serviceType>compute</euca:serviceType><euca:certificateUsage>` + usage + `</euca:certificateUsage><euca:certificateFormat>pem</euca:certificateFormat><euca:certificate>`)
		_ = xml.EscapeText(&b, c.Cert)
		b.WriteString(`</euca:certificate></euca:item>`)
	}
	b.WriteString(`</euca:serviceCertificates></euca:DescribeServiceCertificatesResponseType>`)
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	_, _ = w.Write(b.Bytes())
}
