// Command cmd runs the stand-in of package ec2test for tests that are elsewhere. It
// prints a line of JSON with the addresses and accounts of the cloud, and then does what
// it is told, a line of JSON each, answering each with another:
//
//	{"launch": {"account": "alice", "disk": "/path/of/a/raw/file"}}	{"id": "i-…"}
//	{"trouble": {"service": "s3", "on": "GET", "contains": "part", "do": "reset", "at": 0, "times": 1}}	{}
//	{"calm": true}	{}
//	{"keys": "bucket"}	{"keys": ["…"]}
//
// An answer with "error" is of a line that could not be done. It ends with its standard
// input.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"chromogenic/disk"
	"chromogenic/providers/internal/ec2test"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// What the first line tells.
type cloud struct {
	EC2      string    `json:"ec2"`
	S3       string    `json:"s3"`
	CA       string    `json:"ca,omitempty"` // PEM
	Cert     string    `json:"cloud_cert"`   // PEM
	Accounts []account `json:"accounts"`
}

type account struct {
	Name      string `json:"name"`
	Number    string `json:"number"`
	AccessKey string `json:"access_key"`
	Secret    string `json:"secret_key"`
	Key       string `json:"private_key"` // PEM
	Cert      string `json:"cert"`        // PEM
}

type order struct {
	Launch *struct {
		Account, Disk, Image, EBS string
		Tags                      map[string]string
	}
	Trouble *struct {
		Service, On, Contains string
		Do                    ec2test.Mischief
		At                    int64
		Times, After, Status  int
		Code, Message         string
	}
	Calm bool
	Keys string
}

type answer struct {
	ID    string   `json:"id,omitempty"`
	Keys  []string `json:"keys,omitempty"`
	Error string   `json:"error,omitempty"`
}

func run(args []string, in io.Reader, out io.Writer) (err error) {
	var o ec2test.Options
	flags := flag.NewFlagSet("ec2test", flag.ContinueOnError)
	flags.BoolVar(&o.TLS, "tls", false, "serve https")
	flags.StringVar(&o.Dir, "dir", "", "where the object store keeps its files; empty is a temporary directory")
	flags.IntVar(&o.Page, "page", 0, "entries in a page of a listing; 0 knows no pages")
	flags.BoolVar(&o.CloudSeals, "cloud-seals", false, "have BundleInstance encrypt for the cloud alone")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c, err := ec2test.New(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	w := json.NewEncoder(out)
	first := cloud{EC2: c.ComputeURL(), S3: c.ObjectStorageURL(), CA: string(c.CA), Cert: string(c.Cert)}
	for _, name := range []string{"eucalyptus", "alice", "bob"} {
		a := c.Account(name)
		first.Accounts = append(first.Accounts, account{a.Name, a.Number, a.AccessKey, a.Secret, string(a.KeyPEM()), string(a.Cert)})
	}
	if err := w.Encode(first); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var o order
		var a answer
		err := json.Unmarshal(lines.Bytes(), &o)
		if err == nil {
			a, err = do(c, o)
		}
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := w.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

func do(c *ec2test.Cloud, o order) (answer, error) {
	switch {
	case o.Launch != nil:
		i := ec2test.Instance{Image: o.Launch.Image, EBS: o.Launch.EBS, Tags: o.Launch.Tags}
		if o.Launch.Disk != "" {
			f, err := os.Open(o.Launch.Disk)
			if err != nil {
				return answer{}, err
			}
			if i.Disk, err = disk.OpenFile(f); err != nil { // open until the end
				return answer{}, err
			}
		}
		return answer{ID: c.Launch(c.Account(o.Launch.Account), i)}, nil
	case o.Trouble != nil:
		t := ec2test.Trouble{
			On: o.Trouble.On, Contains: o.Trouble.Contains, Do: o.Trouble.Do, At: o.Trouble.At, Times: o.Trouble.Times, After: o.Trouble.After,
			Status: o.Trouble.Status, Code: o.Trouble.Code, Message: o.Trouble.Message,
		}
		if o.Trouble.Service == "s3" {
			c.S3.Trouble(t)
		} else {
			c.Trouble(t)
		}
		return answer{}, nil
	case o.Calm:
		c.S3.Calm()
		c.Calm()
		return answer{}, nil
	case o.Keys != "":
		return answer{Keys: c.S3.Keys(o.Keys)}, nil
	}
	return answer{}, errors.New("there is nothing to do")
}
