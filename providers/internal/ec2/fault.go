package ec2

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"regexp"
	"strings"
)

// A Fault is what the service says of a request that it has not met: the cause of an
// error of this package.
type Fault struct {
	Code    string // "InvalidAMIID.NotFound"; empty where none is given
	Message string // as a person reads it
	Status  int    // of HTTP

	requestID string
	html      bool // it came as a page, so its words are anybody's
}

func (f *Fault) Error() string {
	if f.Code == "" {
		return fmt.Sprintf("%d: %s", f.Status, f.Message)
	}
	return f.Code + ": " + f.Message
}

// Code is the service's own code in an error, empty where it has given none.
func Code(err error) string {
	var f *Fault
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

// maxMessage is as much of a message as a person reads, in bytes.
const maxMessage = 300

// parseFault reads the body of an error. What EC2 sends is
//
//	<Response><Errors><Error><Code/><Message/></Error></Errors><RequestID/></Response>
//
// and Eucalyptus has, besides, the ErrorResponse of other services, the faults of SOAP,
// and pages and plain text of the servers before it. All of them name their parts, at
// whatever depth, nearly alike.
func parseFault(status int, body []byte) *Fault {
	f := &Fault{Status: status}
	if !f.readXML(body) {
		text := string(body)
		if f.html = strings.Contains(text, "<"); f.html {
			text = html.UnescapeString(tag.ReplaceAllString(headline.ReplaceAllString(text, " "), " "))
		}
		f.Code, f.Message = "", text
	}
	f.Code = short(f.Code) // Eucalyptus has codes that begin with a space
	f.requestID = short(f.requestID)
	f.Message = cmp.Or(short(f.Message), http.StatusText(status), "no reason is given")
	return f
}

var (
	headline = regexp.MustCompile(`(?is)<(head|style|script)\b.*?</(head|style|script)>`)
	tag      = regexp.MustCompile(`(?s)<[^>]*>`)
)

// readXML takes the first code, message and request id of a document, and tells whether
// it is one that has a code or a message.
func (f *Fault) readXML(body []byte) bool {
	d := xml.NewDecoder(bytes.NewReader(body))
	var into *string
	for depth := 0; ; {
		tok, err := d.Token()
		if err == io.EOF {
			return f.Code != "" || f.Message != ""
		}
		if err != nil {
			return false
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			name := strings.ToLower(tok.Name.Local)
			if depth++; depth > maxDepth || depth == 1 && name == "html" {
				return false
			}
			if into = f.part(name); into != nil && *into != "" {
				into = nil
			}
		case xml.EndElement:
			depth--
			into = nil
		case xml.CharData:
			if into != nil {
				*into += string(tok)
			}
		}
	}
}

// part is where the text of an element belongs.
func (f *Fault) part(name string) *string {
	switch name {
	case "code", "faultcode":
		return &f.Code
	case "message", "faultstring", "text":
		return &f.Message
	case "requestid", "correlationid":
		return &f.requestID
	}
	return nil
}

// short is a text on one line, cut where nobody reads on.
func short(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}
