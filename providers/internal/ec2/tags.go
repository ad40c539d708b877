package ec2

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// SetTags sets tags of images, or other things, and removes others of them. What is to be
// set is set first: who is interrupted has lost nothing. Neither is an error where it
// changes nothing.
func (c *Client) SetTags(ctx context.Context, ids []string, set map[string]string, remove []string) error {
	what := "tag " + strings.Join(ids, ", ")
	if len(ids) == 0 {
		return nil
	}
	if len(set) > 0 {
		in := &ec2.CreateTagsInput{Resources: ids}
		for _, key := range slices.Sorted(maps.Keys(set)) {
			in.Tags = append(in.Tags, types.Tag{Key: aws.String(key), Value: aws.String(set[key])})
		}
		if _, err := call(ctx, c, what, c.api.CreateTags, in); err != nil {
			return err
		}
	}
	in := &ec2.DeleteTagsInput{Resources: ids}
	for _, key := range remove {
		if _, kept := set[key]; !kept {
			in.Tags = append(in.Tags, types.Tag{Key: aws.String(key)}) // whatever its value is
		}
	}
	if len(in.Tags) == 0 {
		return nil // without tags it would remove them all
	}
	_, err := call(ctx, c, what, c.api.DeleteTags, in)
	return err
}
