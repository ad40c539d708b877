package eucalyptus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/stall"
)

// storeError classifies what the SDK says of a request to the object storage. It is
// Transient where another try may do better.
func storeError(ctx context.Context, err error) error {
	var known *disk.Error
	var again *providers.Transient
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &again):
		return err
	case errors.Is(err, stall.Err):
		return &providers.Transient{Err: &disk.Error{Kind: disk.Timeout, Err: stall.Err}}
	case errors.As(err, &known):
		return err
	}
	var resp *awshttp.ResponseError
	if errors.As(err, &resp) && resp.Response != nil && resp.HTTPStatusCode() != 0 { // 0 is of no answer
		return refusal(resp, err)
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return disk.Hint(&disk.Error{Kind: disk.Unreachable, Err: cert},
			"name the file of its authority: ca-file of the region in ~/.euca/*.ini, AWS_CA_BUNDLE or SSL_CERT_FILE; verify-ssl = false trusts anybody")
	}
	kind := disk.Unreachable
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		kind = disk.Timeout
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the answer ends early: %w", err)
	}
	return &providers.Transient{Err: &disk.Error{Kind: kind, Err: err}}
}

// refusal classifies an answer that is no success.
func refusal(resp *awshttp.ResponseError, err error) error {
	status, code, text := resp.HTTPStatusCode(), "", ""
	var api smithy.APIError
	if errors.As(err, &api) {
		code, text = api.ErrorCode(), api.ErrorMessage()
	}
	if code == "" || text == "" {
		text = strings.TrimSpace(text + " " + http.StatusText(status))
	}
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	e := &disk.Error{Kind: storeKind(status, code), RequestID: resp.ServiceRequestID(), Err: fmt.Errorf("%d %s: %s", status, code, text)}
	switch {
	case code == "RequestTimeTooSkewed":
		e.Hint = "the clock of this machine differs from that of the cloud: set it"
	case code == "SignatureDoesNotMatch" || code == "InvalidAccessKeyId":
		e.Hint = "the credentials are refused: renew them, chromogenic doctor tells which they are"
	case e.Kind == disk.Denied:
		e.Hint = "the bucket or the object is another account's, which has not let this one read it; or the user has no policy that allows it"
	}
	throttled := status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests || code == "SlowDown"
	if status < 500 && !throttled && status != http.StatusRequestTimeout && code != "RequestTimeout" || status == http.StatusNotImplemented {
		return e
	}
	if throttled {
		e.Kind = disk.Timeout
	}
	return &providers.Transient{Err: e, After: retryAfter(resp.Response.Header), Throttled: throttled}
}

// maxMessage is as much of an error's text as a person reads, in bytes.
const maxMessage = 300

// storeKind is the one table from what the store answers to a kind.
func storeKind(status int, code string) disk.Kind {
	switch code {
	case "NoSuchBucket", "NoSuchKey", "NoSuchEntity", "NotFound":
		return disk.NotFound
	case "BucketAlreadyExists", "BucketAlreadyOwnedByYou":
		return disk.Exists
	case "EntityTooLarge":
		return disk.TooLarge
	case "QuotaExceeded", "TooManyBuckets", "LimitExceeded":
		return disk.Quota
	case "InsufficientStorage", "OutOfSpace":
		return disk.NoSpace
	case "BadDigest", "InvalidDigest", "IncompleteBody":
		return disk.Malformed
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return disk.Denied
	case http.StatusNotFound:
		return disk.NotFound
	case http.StatusConflict:
		return disk.Busy
	case http.StatusBadRequest:
		return disk.Invalid
	case http.StatusInsufficientStorage:
		return disk.NoSpace
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return disk.Unsupported
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return disk.Timeout
	}
	if status >= 500 || status/100 == 3 {
		return disk.Unreachable
	}
	return disk.Other
}

// retryAfter is how long the store asks to wait, 0 if it does not.
func retryAfter(h http.Header) time.Duration {
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil && s > 0 {
		return time.Duration(s) * time.Second
	}
	return 0
}
