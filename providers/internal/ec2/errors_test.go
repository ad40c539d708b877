package ec2

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

const queryError = `<?xml version="1.0"?><Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>r-1</RequestID></Response>`

// client asks a server that answers as it is told to.
func client(t *testing.T, handler http.HandlerFunc, change func(*Options)) *Client {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	o := Options{
		Endpoint: s.URL + "/services/compute", Retry: providers.NewRetry(time.Nanosecond, 4),
		Credentials: func(context.Context) (Credentials, error) {
			return Credentials{AccessKey: "AKI", Secret: "hushhush"}, nil
		},
	}
	if change != nil {
		change(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// answers is a handler that always answers the same.
func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		kind   disk.Kind
		code   string
		id     string // of the request
		says   string
		tries  int
	}{
		{"auth", 401, fmt.Sprintf(queryError, "AuthFailure", "no"), disk.Denied, "AuthFailure", "r-1", "AuthFailure: no", 1},
		{"signature", 403, fmt.Sprintf(queryError, "SignatureDoesNotMatch", "no"), disk.Denied, "SignatureDoesNotMatch", "r-1", "", 1},
		{"operation", 403, fmt.Sprintf(queryError, "UnauthorizedOperation", "no"), disk.Denied, "UnauthorizedOperation", "r-1", "", 1},
		{"unknown code of a 403", 403, fmt.Sprintf(queryError, "InvalidSomething", "no"), disk.Denied, "InvalidSomething", "r-1", "", 1},
		{"gone", 400, fmt.Sprintf(queryError, "InvalidAMIID.NotFound", "The image ID 'emi-1' does not exist"), disk.NotFound, "InvalidAMIID.NotFound", "r-1", "does not exist", 1},
		{"duplicate", 400, fmt.Sprintf(queryError, "InvalidAMIName.Duplicate", "in use"), disk.Exists, "InvalidAMIName.Duplicate", "r-1", "", 1},
		{"busy", 400, fmt.Sprintf(queryError, "BundlingInProgress", "bun-1"), disk.Busy, "BundlingInProgress", "r-1", "", 1},
		{"quota", 400, fmt.Sprintf(queryError, "TagLimitExceeded", "10"), disk.Quota, "TagLimitExceeded", "r-1", "", 1},
		{"space before the code", 400, fmt.Sprintf(queryError, " InvalidParameterValue", "Prefix"), disk.Invalid, "InvalidParameterValue", "r-1", "", 1},
		{"throttled", 503, fmt.Sprintf(queryError, "RequestLimitExceeded", "slow"), disk.Timeout, "RequestLimitExceeded", "r-1", "", 2},
		{"throttled by 400", 400, fmt.Sprintf(queryError, "Throttling", "slow"), disk.Timeout, "Throttling", "r-1", "", 2},
		{"internal", 500, fmt.Sprintf(queryError, "InternalFailure", "null"), disk.Unreachable, "InternalFailure", "r-1", "", 2},
		{"refused as internal", 500, fmt.Sprintf(queryError, "InternalFailure", "Only administrators can register kernel images."), disk.Denied, "InternalFailure", "r-1", "", 1},
		{"too large as internal", 500, fmt.Sprintf(queryError, "InternalFailure", "Cannot register image of size 1 bytes because it exceeds the configured maximum instance-store image size of 1 GB."), disk.TooLarge, "InternalFailure", "r-1", "", 1},
		{"service's error", 403, `<ErrorResponse xmlns="https://x/"><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code><Message>none</Message></Error><RequestId>r-2</RequestId></ErrorResponse>`, disk.Denied, "InvalidClientTokenId", "r-2", "", 1},
		{"soap", 500, `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Server</faultcode><faultstring>Image &lt;x&gt; does not exist</faultstring></s:Fault></s:Body></s:Envelope>`, disk.Unreachable, "s:Server", "", "Image <x> does not exist", 2},
		{"plain", 403, "Failure: 403 Forbidden", disk.Denied, "", "", "403: Failure: 403 Forbidden", 1},
		{"page", 502, "<html><head><title>x</title></head><body><h1>502 Bad Gateway</h1><hr>nginx</body></html>", disk.Unreachable, "", "", "502: 502 Bad Gateway nginx", 2},
		{"no service", 404, "Failure: 404 Not Found", disk.Unreachable, "", "", "404", 1},
		{"page that does not exist", 404, "<html>this page does not exist</html>", disk.Unreachable, "", "", "", 1},
		{"redirect", 302, "", disk.Unreachable, "", "", "Found", 1},
		{"empty", 400, "", disk.Invalid, "", "", "Bad Request", 1},
		{"bad xml", 400, "<Response><Errors>", disk.Invalid, "", "", "", 1},
		{"ours alone", 200, "<html><body>Please log in</body></html>", disk.Unreachable, "", "", "html", 1},
		{"nothing", 200, "", disk.Unreachable, "", "", "text without an element", 1},
		{"other answer", 200, "<DescribeInstancesResponse/>", disk.Unreachable, "", "", "DescribeInstancesResponse", 1},
		{"cut off", 200, "<DescribeImagesResponse><imagesSet><item>", disk.Unreachable, "", "", "", 1},
		{"a document type", 200, `<!DOCTYPE x [<!ENTITY a "b">]><DescribeImagesResponse/>`, disk.Unreachable, "", "", "document type", 1},
		{"deep", 200, "<DescribeImagesResponse>" + strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100) + "</DescribeImagesResponse>", disk.Unreachable, "", "", "deep", 1},
		{"no id", 200, "<DescribeImagesResponse><imagesSet><item/></imagesSet></DescribeImagesResponse>", disk.Unreachable, "", "", "no id", 1},
		{"no boolean", 200, "<DescribeImagesResponse><imagesSet><item><isPublic>maybe</isPublic></item></imagesSet></DescribeImagesResponse>", disk.Unreachable, "", "", "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tries := 0
			c := client(t, func(w http.ResponseWriter, r *http.Request) {
				tries++
				answers(tt.status, tt.body)(w, r)
			}, nil)
			list, err := c.Images(t.Context(), ImageFilter{})
			if err == nil {
				t.Fatalf("it is listed: %v", list)
			}
			e := disk.AsError(err)
			if e.Kind != tt.kind || Code(err) != tt.code || e.RequestID != tt.id || !strings.Contains(err.Error(), tt.says) || tries != tt.tries {
				t.Errorf("%v %q %q after %d tries: %v", e.Kind, Code(err), e.RequestID, tries, err)
			}
			if tt.kind == disk.Denied && e.Hint == "" {
				t.Error("there is no hint")
			}
			if strings.Contains(err.Error()+e.Hint, "hush") {
				t.Errorf("the secret is told: %v", err)
			}
			if !strings.HasPrefix(err.Error(), "describe images: ") {
				t.Errorf("it does not say what failed: %v", err)
			}
		})
	}
}

// A request that is sent elsewhere stays: who gets it there could send it on.
func TestRedirect(t *testing.T) {
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 307, 308} {
		c := client(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL+"/there", status) }, nil)
		_, err := c.Images(t.Context(), ImageFilter{})
		if e := disk.AsError(err); asked || e.Kind != disk.Unreachable || !strings.Contains(e.Hint, elsewhere.URL+"/there") {
			t.Errorf("%d: followed %v, %v, hint %q", status, asked, err, e.Hint)
		}
	}
}

// A wrong clock is the reason of most signatures that are refused for no other.
func TestClockHint(t *testing.T) {
	c := client(t, answers(403, fmt.Sprintf(queryError, "SignatureDoesNotMatch", "no")), func(o *Options) {
		o.Now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	})
	_, err := c.Images(t.Context(), ImageFilter{})
	if h := disk.AsError(err).Hint; !strings.Contains(h, "clock") || !strings.Contains(h, "-1h59m") && !strings.Contains(h, "-2h0m") {
		t.Errorf("hint %q", h)
	}
}

// hang ends when the client has gone, which a server sees behind the body alone.
func hang(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func TestConnections(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		c := client(t, answers(200, ""), func(o *Options) { o.Endpoint = "http://127.0.0.1:1/services/compute" })
		if _, err := c.Images(t.Context(), ImageFilter{}); disk.KindOf(err) != disk.Unreachable {
			t.Errorf("%v: %v", disk.KindOf(err), err)
		}
	})
	t.Run("broken off", func(t *testing.T) {
		c := client(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "<DescribeImagesResponse>")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, nil)
		if _, err := c.Images(t.Context(), ImageFilter{}); disk.KindOf(err) != disk.Unreachable {
			t.Errorf("%v: %v", disk.KindOf(err), err)
		}
	})
	t.Run("slow", func(t *testing.T) {
		c := client(t, func(_ http.ResponseWriter, r *http.Request) { hang(r) }, func(o *Options) { o.HTTP = &http.Client{Timeout: 50 * time.Millisecond} })
		if _, err := c.Images(t.Context(), ImageFilter{}); disk.KindOf(err) != disk.Timeout {
			t.Errorf("%v: %v", disk.KindOf(err), err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		mine := errors.New("enough")
		c := client(t, func(_ http.ResponseWriter, r *http.Request) { cancel(mine); hang(r) }, nil)
		if _, err := c.Images(ctx, ImageFilter{}); !errors.Is(err, mine) {
			t.Errorf("%v", err)
		}
	})
	t.Run("certificate", func(t *testing.T) {
		s := httptest.NewTLSServer(answers(200, ""))
		defer s.Close()
		s.Config.ErrorLog = nil
		c := client(t, answers(200, ""), func(o *Options) {
			o.Endpoint, o.HTTP = s.URL, &http.Client{Transport: &http.Transport{TLSClientConfig: s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()}}
			o.HTTP.Transport.(*http.Transport).TLSClientConfig.RootCAs = x509.NewCertPool()
		})
		_, err := c.Images(t.Context(), ImageFilter{})
		if e := disk.AsError(err); e.Kind != disk.Unreachable || !strings.Contains(e.Hint, "authority") {
			t.Errorf("%v: %v", e.Kind, err)
		}
	})
}

// Credentials are asked for again for each request; where there are none, nothing is sent.
func TestCredentials(t *testing.T) {
	asked := 0
	var give func() (Credentials, error)
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=AKI2/") {
			t.Errorf("signed as %q", r.Header.Get("Authorization"))
		}
		answers(200, "<DescribeImagesResponse><imagesSet/></DescribeImagesResponse>")(w, r)
	}, func(o *Options) {
		o.Credentials = func(context.Context) (Credentials, error) { return give() }
	})
	for _, tt := range []struct {
		give func() (Credentials, error)
		kind disk.Kind
	}{
		{func() (Credentials, error) { return Credentials{}, nil }, disk.Denied},
		{func() (Credentials, error) { return Credentials{}, errors.New("no file") }, disk.Denied},
		{func() (Credentials, error) { return Credentials{}, disk.Errorf(disk.Malformed, "bad file") }, disk.Malformed},
	} {
		give = tt.give
		if _, err := c.Images(t.Context(), ImageFilter{}); disk.KindOf(err) != tt.kind || asked != 0 {
			t.Errorf("%v, %d requests: %v", disk.KindOf(err), asked, err)
		}
	}
	give = func() (Credentials, error) { return Credentials{AccessKey: "AKI2", Secret: "x"}, nil }
	if list, err := c.Images(t.Context(), ImageFilter{}); err != nil || len(list) != 0 || asked != 1 {
		t.Errorf("%v, %v after %d requests", list, err, asked)
	}
	if s := fmt.Sprintf("%v %+v %#v", Credentials{"AKI", "hush", "hush"}, Credentials{"AKI", "hush", "hush"}, Credentials{"AKI", "hush", "hush"}); strings.Contains(s, "hush") {
		t.Errorf("%s", s)
	}
}

func TestOptions(t *testing.T) {
	cred := func(context.Context) (Credentials, error) { return Credentials{}, nil }
	for _, o := range []Options{
		{Endpoint: "http://h/"},
		{Credentials: cred},
		{Credentials: cred, Endpoint: "cloud.example:8773"},
		{Credentials: cred, Endpoint: "ftp://h/"},
		{Credentials: cred, Endpoint: "https://user:hush@h/services/compute?token=hush"},
	} {
		_, err := New(o)
		if disk.KindOf(err) != disk.Invalid || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", o.Endpoint, err)
		}
	}
	if _, err := New(Options{Credentials: cred, Region: "eu-central-1"}); err != nil {
		t.Error(err)
	}
}

// Without an endpoint it is AWS's of the region, and signed for it.
func TestRegion(t *testing.T) {
	var got *http.Request
	c, err := New(Options{
		Region: "eu-central-1", Retry: providers.NewRetry(time.Nanosecond, 1),
		Credentials: func(context.Context) (Credentials, error) {
			return Credentials{AccessKey: "AKI", Secret: "x", Token: "tok"}, nil
		},
		HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			got = r
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<DescribeImagesResponse/>")), Request: r}, nil
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Images(t.Context(), ImageFilter{}); err != nil {
		t.Fatal(err)
	}
	if got.URL.String() != "https://ec2.eu-central-1.amazonaws.com/" || !strings.Contains(got.Header.Get("Authorization"), "/eu-central-1/ec2/aws4_request") || got.Header.Get("X-Amz-Security-Token") != "tok" {
		t.Errorf("%s %v", got.URL, got.Header)
	}
	if _, err := c.ServiceCertificates(t.Context()); disk.KindOf(err) != disk.Unsupported {
		t.Errorf("%v", err)
	}
}

// FuzzFault reads whatever a server may send for an error.
func FuzzFault(f *testing.F) {
	f.Add(500, []byte(fmt.Sprintf(queryError, "A", "b")))
	f.Add(200, []byte("<html><head><title>x"))
	f.Add(403, []byte("Failure: 403\x00\xff"))
	f.Add(400, []byte("<a><Code>x</Code><Code>y</Code><Message><b/>z</Message></a>"))
	f.Add(400, []byte(strings.Repeat("<a>", 1000)))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		disktest.Within(t)
		e := parseFault(status, body)
		if len(e.Message) > maxMessage+len("…") || len(e.Code) > maxMessage+len("…") || strings.ContainsAny(e.Message+e.Code, "\n\r\x00") && !strings.Contains(string(body), "\x00") {
			t.Errorf("%q %q", e.Code, e.Message)
		}
		if e.Message == "" {
			t.Error("it says nothing")
		}
		kindOf(e)
		repeatable(e)
	})
}

// FuzzAnswer reads whatever a server may send for an answer, by way of the SDK.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`<DescribeImagesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><imagesSet><item><imageId>emi-1</imageId><creationDate>x</creationDate></item></imagesSet><nextToken>a</nextToken></DescribeImagesResponse>`))
	f.Add([]byte(`<DescribeImagesResponse><imagesSet><item><blockDeviceMapping><item><ebs><volumeSize>99999999999</volumeSize></ebs></item></blockDeviceMapping></item></imagesSet></DescribeImagesResponse>`))
	f.Add([]byte("<html/>"))
	c, err := New(Options{
		Endpoint: "http://127.0.0.1:1/", Retry: providers.NewRetry(time.Nanosecond, 1),
		Credentials: func(context.Context) (Credentials, error) { return Credentials{AccessKey: "a", Secret: "b"}, nil },
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		disktest.Within(t)
		asked := 0
		c.t.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if asked++; asked > 3 {
				body = []byte("<DescribeImagesResponse/>")
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(body))), Request: r}, nil
		})
		list, err := c.Images(t.Context(), ImageFilter{})
		if err != nil && list != nil {
			t.Error("both")
		}
		for _, i := range list {
			if i.ID == "" {
				t.Error("an image without an id")
			}
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
