package openstack

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/stall"
)

// maxMessage is as much of an error's text as a person reads, in bytes.
const maxMessage = 300

// answerError classifies the answer to a request that was not met. It is Transient
// where another try may be.
func answerError(resp *http.Response, body []byte) error {
	text := message(resp.StatusCode, body)
	e := &disk.Error{
		Kind:      kindOf(resp.StatusCode, text),
		RequestID: requestID(resp.Header),
		Err:       fmt.Errorf("%s %s: %d: %s", resp.Request.Method, resp.Request.URL.Path, resp.StatusCode, text),
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		e.Hint = "the credentials are refused: renew them, chromogenic doctor tells which they are"
	case http.StatusForbidden:
		e.Hint = "the role in this project does not allow it"
	}
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		e.Kind, e.Hint = disk.Unreachable, fmt.Sprintf("it leads to %.200q, and the token is for nobody else: the catalog, or auth_url, must name the right address", to)
	}
	if !repeatable(resp.StatusCode) {
		return e
	}
	return &providers.Transient{
		Err: e, After: retryAfter(resp.Header),
		Throttled: resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable,
	}
}

// repeatable are the statuses that another try may not meet. 413 with Retry-After is
// how older clouds throttle.
func repeatable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// kindOf is the one table from what a service answers to a kind.
func kindOf(status int, text string) disk.Kind {
	text = strings.ToLower(text)
	says := func(word string) bool { return strings.Contains(text, word) }
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType:
		return disk.Invalid
	case http.StatusUnauthorized:
		return disk.Denied
	case http.StatusForbidden:
		switch {
		case says("quota"):
			return disk.Quota // nova's
		case says("is protected"):
			return disk.Busy
		}
		return disk.Denied
	case http.StatusNotFound, http.StatusGone:
		return disk.NotFound
	case http.StatusConflict:
		return disk.Busy
	case http.StatusRequestEntityTooLarge:
		switch {
		case says("quota"):
			return disk.Quota
		case says("storage media is full"):
			return disk.NoSpace
		}
		return disk.TooLarge
	case http.StatusInsufficientStorage:
		return disk.NoSpace
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return disk.Timeout
	case http.StatusNotImplemented, http.StatusNotAcceptable:
		return disk.Unsupported
	}
	if status >= 500 {
		return disk.Unreachable
	}
	return disk.Other
}

// requestID is what the operator of the cloud finds the request by in its logs.
func requestID(h http.Header) string {
	return cmp.Or(h.Get("X-Openstack-Request-Id"), h.Get("X-Compute-Request-Id"))
}

// retryAfter is how long the cloud asks to wait, 0 if it does not.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.Atoi(v); err == nil && s > 0 {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

var (
	headline = regexp.MustCompile(`(?is)<(head|style|script)\b.*?</(head|style|script)>|<h1>.*?</h1>`)
	tag      = regexp.MustCompile(`(?s)<[^>]*>`)
)

// message is what a service says of an error: the message in its JSON, whatever it
// is called there, or the text of a page of HTML without its headline.
func message(status int, body []byte) string {
	text := string(body)
	var tree any
	if json.Unmarshal(body, &tree) == nil {
		text = said(tree)
	}
	if strings.Contains(text, "<") { // Glance has HTML in its JSON too
		text = html.UnescapeString(tag.ReplaceAllString(headline.ReplaceAllString(text, " "), " "))
	}
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return cmp.Or(text, http.StatusText(status), "no reason is given")
}

// said finds the text in {"error": {"message": …}}, {"badRequest": {"message": …}}
// and {"message": …}.
func said(tree any) string {
	switch v := tree.(type) {
	case string:
		return v
	case map[string]any:
		for _, key := range []string{"message", "faultstring", "detail"} {
			if s, ok := v[key].(string); ok {
				return s
			}
		}
		for _, inner := range v {
			if _, ok := inner.(map[string]any); ok {
				return said(inner)
			}
		}
	}
	return ""
}

// transportError classifies the failure of a connection. All of them are transient
// but what the caller himself has ended.
func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), stall.Err) {
		return context.Cause(ctx)
	}
	if err := certificateError(err); err != nil {
		return err
	}
	stalled := errors.Is(err, stall.Err) || errors.Is(context.Cause(ctx), stall.Err)
	var known *disk.Error
	if !stalled && errors.As(err, &known) {
		return err // of what was sent, not of the connection
	}
	kind := disk.Unreachable
	var timeout net.Error
	if stalled || errors.As(err, &timeout) && timeout.Timeout() {
		kind = disk.Timeout
	}
	return &providers.Transient{Err: &disk.Error{Kind: kind, Err: err}}
}

// certificateError is that of a server whose certificate nobody vouches for, nil for
// any other: no other try helps.
func certificateError(err error) error {
	var cert *tls.CertificateVerificationError
	if !errors.As(err, &cert) {
		return nil
	}
	return disk.Hint(&disk.Error{Kind: disk.Unreachable, Err: err},
		"name the file of its authority: cacert of the cloud in clouds.yaml, or OS_CACERT; verify: false, or OS_INSECURE=true, trusts anybody")
}

// transient is the Transient in an error, nil where there is none.
func transient(err error) *providers.Transient {
	var t *providers.Transient
	if errors.As(err, &t) {
		return t
	}
	return nil
}

// loginError classifies what gophercloud says of a login.
func loginError(ctx context.Context, err error) error {
	var code gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &code) {
		e := &disk.Error{
			Kind: kindOf(code.Actual, ""), RequestID: requestID(code.ResponseHeader),
			Err: fmt.Errorf("log in at %s: %d: %s", code.URL, code.Actual, message(code.Actual, code.Body)),
		}
		switch {
		case repeatable(code.Actual):
			return &providers.Transient{Err: e, After: retryAfter(code.ResponseHeader), Throttled: code.Actual == http.StatusTooManyRequests}
		case e.Kind == disk.NotFound:
			e.Kind, e.Hint = disk.Denied, "auth_url may be another: it ends with the port or with /v3"
		case e.Kind == disk.Denied:
			e.Hint = "look at the user, password, project and domains of the cloud"
		}
		return e
	}
	var op *net.OpError
	var timeout net.Error
	if certificateError(err) != nil || errors.As(err, &op) || errors.As(err, &timeout) || ctx.Err() != nil {
		return transportError(ctx, err)
	}
	return &disk.Error{Kind: disk.Denied, Err: fmt.Errorf("log in: %w", err)}
}
