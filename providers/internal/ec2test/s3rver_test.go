package ec2test

import (
	"testing"
	"time"
)

// s3rver ends with its standard input, and so with a test that is killed.
func TestS3rverEnds(t *testing.T) {
	c := Start(t, Options{})
	if err := c.S3.back.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-c.S3.back.done:
		c.S3.back.done <- err
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
}
