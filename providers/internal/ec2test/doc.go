// Package ec2test is a small stand-in for a cloud of Eucalyptus 4.4, for tests: the EC2
// query API, the service of certificates, and an object store, on one loopback port.
//
// No real Eucalyptus and no AWS was contacted when it was made, nor is by its tests. What
// it does is what the source of Eucalyptus says (branch maint-4.4, and its integration
// test TestEC2ImageRegistration), as the places below name it; where that leaves a
// question open it does the stricter of what is likely:
//
//   - Signatures of version 4 are verified by computing them anew with the AWS SDK's
//     signer, version 2 and forms by a few lines of ours. Region and service of a scope
//     are anybody's, as in Hmacv4LoginModule.java; a signature of version 2 is taken once.
//     What HTTP status and code Eucalyptus has for a signature that is wrong was not
//     found in its source: here they are those that AWS documents for its query APIs.
//   - Parameters that an action does not know are refused (ComputeQueryBinding.java,
//     UnknownParameterStrategy.ERROR).
//   - What its source throws as a plain EucalyptusCloudException comes as status 500 and
//     InternalFailure, whatever it means.
//   - RegisterImage reads the manifest as ImageManifests.java does. Beyond that it looks
//     at once for what Eucalyptus finds out when the image is started: that the cloud may
//     read every part, that the parts have the sizes that the manifest claims, and that
//     the cloud's key opens the content key.
//   - BundleInstance checks what VmControl.java checks and writes a real bundle, by forms
//     with the policy that it was given. How an instance looks meanwhile is an
//     assumption: stopped, and then running again.
//   - The object store is s3rver (npm) behind a proxy of ours, which verifies signatures
//     and knows owners and canned ACLs. Lists are of version 1: the source has none of
//     version 2. Checksum headers are ignored, and trailers refused.
package ec2test
