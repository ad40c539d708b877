package openstack

import (
	"net/http"
	"testing"
	"time"

	"chromogenic/disk"
)

func TestMessage(t *testing.T) {
	for in, want := range map[string]string{
		"<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n  <h1>404 Not Found</h1>\n  No image found with ID x &amp; y<br /><br />\n </body>\n</html>": "No image found with ID x & y",
		`{"badRequest": {"code": 400, "message": "Image 1 is not active."}}`:                                                                                              "Image 1 is not active.",
		`{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}`:                                                    "The request you have made requires authentication.",
		`{"message": "plain"}`: "plain",
		"":                     "Not Found",
		"<html></html>":        "Not Found",
	} {
		if got := message(http.StatusNotFound, []byte(in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, tt := range []struct {
		status int
		text   string
		want   disk.Kind
	}{
		{401, "", disk.Denied},
		{403, "Quota exceeded for instances", disk.Quota},
		{403, "Image x is protected and cannot be deleted.", disk.Busy},
		{403, "", disk.Denied},
		{404, "", disk.NotFound},
		{409, "", disk.Busy},
		{413, "Denying attempt to upload image because it exceeds the quota", disk.Quota},
		{413, "Image storage media is full", disk.NoSpace},
		{413, "", disk.TooLarge},
		{429, "", disk.Timeout},
		{500, "", disk.Unreachable},
		{418, "", disk.Other},
	} {
		if got := kindOf(tt.status, tt.text); got != tt.want {
			t.Errorf("%d %s: %v, want %v", tt.status, tt.text, got, tt.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	later := time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)
	for in, want := range map[string]time.Duration{"7": 7 * time.Second, "": 0, "-1": 0, "soon": 0, later: time.Minute} {
		got := retryAfter(http.Header{"Retry-After": {in}})
		if (got - want).Abs() > 2*time.Second {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

func TestContentRange(t *testing.T) {
	for in, ok := range map[string]bool{"bytes 5-9/100": true, "bytes 5-9/*": false, "": false, "bytes */100": false, "items 5-9/100": false} {
		from, total, good := contentRange(in)
		if good != ok || ok && (from != 5 || total != 100) {
			t.Errorf("%q: %d of %d, %v", in, from, total, good)
		}
	}
}
