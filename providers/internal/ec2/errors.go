package ec2

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// answerError classifies the answer to a request that was not met. It is Transient
// where another try may be.
func (t *transport) answerError(resp *http.Response, body []byte) error {
	f := parseFault(resp.StatusCode, body)
	e := &disk.Error{Kind: kindOf(f), RequestID: f.requestID, Err: f}
	if e.RequestID == "" {
		e.RequestID = resp.Header.Get("X-Amzn-Requestid")
	}
	switch {
	case resp.StatusCode/100 == 3:
		e.Hint = fmt.Sprintf("it leads to %.200q, and the signature is for nobody else: the endpoint must name the right address", resp.Header.Get("Location"))
	case f.Code == "" && e.Kind == disk.Unreachable && resp.StatusCode == http.StatusNotFound:
		e.Hint = "there is no service of EC2 at this address: it ends with /services/compute, or /services/Eucalyptus of old clouds"
	case e.Kind == disk.Denied:
		e.Hint = t.deniedHint(f, resp.Header)
	case f.Code == "MissingParameter" && strings.Contains(f.Message, "Signature") && !t.sigV2:
		e.Hint = "an old cloud wants signature version 2"
	}
	if !repeatable(f) {
		return e
	}
	return &providers.Transient{Err: e, After: retryAfter(resp.Header), Throttled: throttles(f)}
}

// maxSkew is how far a clock may be wrong: AWS takes signatures of 15 minutes, and of 5
// in some services; who is refused by less is refused for another reason.
const maxSkew = 5 * time.Minute

// deniedHint tells why credentials may be refused. The date of the answer is that of the
// service's clock.
func (t *transport) deniedHint(f *Fault, h http.Header) string {
	if theirs, err := http.ParseTime(h.Get("Date")); err == nil {
		if skew := t.now().Sub(theirs).Round(time.Second); skew.Abs() > maxSkew {
			return fmt.Sprintf("the clock of this machine is %v off that of the service, and signatures hold for minutes: set it right", skew)
		}
	}
	switch f.Code {
	case "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "OptInRequired":
		return "the policy of this account or user does not allow it"
	case "ExpiredToken", "ExpiredTokenException", "RequestExpired", "RequestTimeTooSkewed":
		return "the credentials or the signature have expired: renew the credentials, and look at the clock of this machine"
	}
	if strings.Contains(f.Message, "Manifest is not accessible") { // of RegisterImage
		return "the bundle names another account than that of these credentials"
	}
	return "the credentials are refused: look at access key and secret key; chromogenic doctor tells where they are from"
}

// codes is the one table from what a service says to a kind. Names that end alike are
// told by suffixes and prefixes below.
var codes = map[string]disk.Kind{
	"AuthFailure":                 disk.Denied,
	"UnauthorizedOperation":       disk.Denied,
	"SignatureDoesNotMatch":       disk.Denied,
	"InvalidSignatureException":   disk.Denied,
	"IncompleteSignature":         disk.Denied,
	"InvalidClientTokenId":        disk.Denied,
	"InvalidAccessKeyId":          disk.Denied,
	"UnrecognizedClientException": disk.Denied,
	"MissingAuthenticationToken":  disk.Denied,
	"AccessDenied":                disk.Denied,
	"AccessDeniedException":       disk.Denied,
	"ExpiredToken":                disk.Denied,
	"ExpiredTokenException":       disk.Denied,
	"RequestExpired":              disk.Denied,
	"RequestTimeTooSkewed":        disk.Denied,
	"OptInRequired":               disk.Denied,
	"PendingVerification":         disk.Denied,
	"Blocked":                     disk.Denied,

	"InvalidAMIID.Unavailable": disk.NotFound,
	"InvalidAMIName.Duplicate": disk.Exists,

	"IncorrectState":         disk.Busy,
	"IncorrectInstanceState": disk.Busy,
	"InvalidState":           disk.Busy,
	"InvalidInstanceState":   disk.Busy,
	"BundlingInProgress":     disk.Busy,
	"OperationNotPermitted":  disk.Busy, // protected against it

	"Throttling":                   disk.Timeout,
	"ThrottlingException":          disk.Timeout,
	"RequestThrottled":             disk.Timeout,
	"RequestLimitExceeded":         disk.Timeout,
	"BandwidthLimitExceeded":       disk.Timeout,
	"EC2ThrottledException":        disk.Timeout,
	"TooManyRequestsException":     disk.Timeout,
	"SlowDown":                     disk.Timeout,
	"InsufficientInstanceCapacity": disk.NoSpace,
	"InsufficientCapacity":         disk.NoSpace,
	"EntityTooLarge":               disk.TooLarge,

	"UnsupportedOperation":  disk.Unsupported,
	"OperationNotSupported": disk.Unsupported,
	"Unsupported":           disk.Unsupported,
	"InvalidAction":         disk.Unsupported,
	"UnknownOperation":      disk.Unsupported,
	"NotImplemented":        disk.Unsupported,
	"NoSuchVersion":         disk.Unsupported,

	"ServiceUnavailable": disk.Unreachable,
	"Unavailable":        disk.Unreachable,
	"InternalError":      disk.Unreachable,
	"InternalFailure":    disk.Unreachable,
	"Internal":           disk.Unreachable,

	"ValidationError":  disk.Invalid,
	"UnknownParameter": disk.Invalid,
}

// wrong is how the codes of requests begin that make no sense.
var wrong = regexp.MustCompile(`^(Invalid|Missing|Malformed|Unknown)`)

// kindOf classifies a fault.
func kindOf(f *Fault) disk.Kind {
	if k, ok := refusal(f); ok {
		return k
	}
	if k, ok := codes[f.Code]; ok {
		return k
	}
	ends := func(with string) bool { return strings.HasSuffix(f.Code, with) }
	switch {
	case f.Code == "":
	case ends(".NotFound"), ends(".Unknown"), ends("NotFoundException"):
		return disk.NotFound
	case ends(".Duplicate"), ends("AlreadyExists"):
		return disk.Exists
	case ends(".InUse"), ends("InUse"), ends("DependencyViolation"):
		return disk.Busy
	case ends("LimitExceeded"), ends("QuotaExceeded"):
		return disk.Quota
	case f.Status == http.StatusUnauthorized, f.Status == http.StatusForbidden:
	case wrong.MatchString(f.Code):
		return disk.Invalid
	}
	switch {
	case f.Status == http.StatusUnauthorized, f.Status == http.StatusForbidden:
		return disk.Denied
	case f.Status == http.StatusTooManyRequests, f.Status == http.StatusRequestTimeout, f.Status == http.StatusGatewayTimeout:
		return disk.Timeout
	case f.Status == http.StatusRequestEntityTooLarge:
		return disk.TooLarge
	case f.Status == http.StatusNotImplemented:
		return disk.Unsupported
	case f.Status >= 500, f.Status/100 == 3, f.Status == http.StatusNotFound: // nobody has said that there is no image
		return disk.Unreachable
	case f.Status == http.StatusBadRequest, f.Code == "" && f.Status/100 == 4:
		return disk.Invalid
	}
	return disk.Other
}

// refusals are what Eucalyptus refuses for good with the code of a failure of its own
// (status 500, InternalFailure): whatever its source throws as a plain
// EucalyptusCloudException. The texts are of ImageManager.java, ImageManifests.java and
// VmControl.java of release 4.4.
var refusals = []struct {
	says string
	kind disk.Kind
}{
	{"not booted from an EBS volume", disk.Unsupported},
	{"'running' or 'stopped' state", disk.Busy},
	{"not currently 'running'", disk.Busy},
	{"already being bundled", disk.Busy},
	{"Can't cancel bundle task", disk.Busy},
	{"Failed to find bundle task", disk.NotFound},
	{"does not exist", disk.NotFound},
	{"Only administrators can register", disk.Denied},
	{"Not authorized to", disk.Denied},
	{"configured maximum instance-store image size", disk.TooLarge},
	{"Failed to read manifest file", disk.Invalid},
	{"Invalid image location", disk.Invalid},
	{"bucket name is not available", disk.Exists}, // of BundleInstance, which makes it
	{"Custom policy is not acceptable", disk.Invalid},
	{"Unknown virtualization-type", disk.Invalid},
	{"Invalid request", disk.Invalid},
	{"Invalid id:", disk.Invalid},
	{"Not a valid userId", disk.Invalid},
	{"Failed to bind the following fields", disk.Unsupported},
}

// refusal tells what a failure refuses for good.
func refusal(f *Fault) (disk.Kind, bool) {
	switch f.Code {
	case "InternalFailure", "InternalError", "Internal", "":
	default:
		return 0, false
	}
	if f.Code == "" && f.html {
		return 0, false
	}
	for _, r := range refusals {
		if strings.Contains(f.Message, r.says) {
			return r.kind, true
		}
	}
	return 0, false
}

// throttles tells whether the service has more to do than it can.
func throttles(f *Fault) bool {
	return codes[f.Code] == disk.Timeout && f.Code != "" || f.Status == http.StatusTooManyRequests || f.Status == http.StatusServiceUnavailable
}

// repeatable is what another try may not meet. Which of them may have been done all the
// same, the methods find out for themselves (again.go).
func repeatable(f *Fault) bool {
	if _, refused := refusal(f); refused {
		return false
	}
	switch f.Status {
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return true
	}
	return throttles(f)
}

// retryAfter is how long the service asks to wait, 0 if it does not.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.Atoi(v); err == nil && s > 0 {
		return time.Duration(min(s, 24*3600)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// transportError classifies the failure of a connection. All of them are transient but
// what the caller himself has ended, and a certificate that nobody vouches for.
func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return disk.Hint(&disk.Error{Kind: disk.Unreachable, Err: err}, "name the file of its authority; those of clouds are often their own")
	}
	kind := disk.Unreachable
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		kind = disk.Timeout
	}
	return &providers.Transient{Err: &disk.Error{Kind: kind, Err: err}}
}
