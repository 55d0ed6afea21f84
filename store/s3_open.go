package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"golang.org/x/sys/unix"
)

// S3Config is what an S3 needs. Credentials are found as AWS's own tools find them: AWS_ACCESS_KEY_ID and
// AWS_SECRET_ACCESS_KEY, a profile of the shared credentials file, a web identity, the container, the instance.
type S3Config struct {
	Store          string // s3://bucket or s3://bucket/prefix
	S3Endpoint     string // URL of the service, without a path
	S3Region       string
	S3PathStyle    string // "true": https://endpoint/bucket/…, "false": https://bucket.endpoint/…, "auto": as the service is known to want it
	S3CreateBucket bool   // make the bucket if there is none
	StagingDir     string // where uploads are received; "" is the system's temporary directory
	Overwrite      bool   // a service without conditional writes will do

	S3RedirectEndpoint string        // the service as clients reach it, for Presign; "" is S3Endpoint
	S3RedirectTTL      time.Duration // how long a presigned URL is good for: 1 s to 7 days; 0 means 5 min

	Patience time.Duration // give up a request in which nothing moves for this long; 0 means 12 s

	transport *http.Transport
}

// LargestObject is what a bucket takes in one request, in bytes.
const LargestObject = 5 << 30

// Validate reports everything that can be known to be wrong without a request. It repeats no value: a URL may hold a
// password.
func (c S3Config) Validate() error {
	_, _, errStore := splitBucketURL(c.Store)
	_, errEndpoint := endpointURL("Config.S3Endpoint", c.S3Endpoint)
	var errRegion, errStyle, errRedirect, errTTL error
	if strings.TrimLeft(c.S3Region, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" || c.S3Region == "" {
		errRegion = errors.New("Config.S3Region: not a region: give one like us-east-1, or auto")
	}
	if _, known := bucketLookup[c.S3PathStyle]; !known {
		errStyle = errors.New("Config.S3PathStyle: choose auto, true or false")
	}
	if c.S3RedirectEndpoint != "" {
		_, errRedirect = endpointURL("Config.S3RedirectEndpoint", c.S3RedirectEndpoint)
	}
	if c.S3RedirectTTL != 0 && (c.S3RedirectTTL < time.Second || c.S3RedirectTTL > 7*24*time.Hour) {
		errTTL = errors.New("Config.S3RedirectTTL: S3 allows 1s to 168h")
	}
	return errors.Join(errStore, errEndpoint, errRegion, errStyle, errRedirect, errTTL)
}

var bucketLookup = map[string]minio.BucketLookupType{"auto": minio.BucketLookupAuto, "true": minio.BucketLookupPath, "false": minio.BucketLookupDNS}

// splitBucketURL reads s3://bucket/prefix; the prefix is "" or ends with a slash.
func splitBucketURL(text string) (bucket, prefix string, err error) {
	fail := func(what string) (string, string, error) { return "", "", errors.New("Config.Store: " + what) }
	rest, found := strings.CutPrefix(text, "s3://")
	if !found {
		return fail("give a directory, or a bucket as s3://bucket/prefix")
	}
	if strings.ContainsAny(rest, "?#@:") {
		return fail("a bucket URL has no user, password, port, query or fragment: credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the address from Config.S3Endpoint")
	}
	bucket, prefix, _ = strings.Cut(rest, "/")
	switch {
	case bucket == "":
		return fail("the URL names no bucket: give s3://bucket/prefix")
	case s3utils.CheckValidBucketNameStrict(bucket) != nil:
		return fail("S3 allows no such bucket name: it has 3 to 63 of a-z 0-9 . and -, and begins and ends with a letter or digit")
	case strings.HasSuffix(bucket, "--x-s3"):
		return fail("a directory bucket does not list in order: choose a general purpose bucket")
	}
	if prefix = strings.TrimSuffix(prefix, "/"); prefix == "" {
		return bucket, "", nil
	}
	for segment := range strings.SplitSeq(prefix, "/") {
		if _, err := ParseKey(segment + "/x/1.zip"); err != nil || strings.Contains(segment, "%") {
			return fail("the prefix in the bucket may have only A-Z a-z 0-9 . _ + - ~ @ between single slashes")
		}
	}
	if len(prefix) > 512 {
		return fail("the prefix in the bucket is longer than 512 characters")
	}
	return bucket, prefix + "/", nil
}

func endpointURL(name, text string) (*url.URL, error) {
	u, err := url.Parse(text)
	port := ""
	if err == nil {
		port = u.Port()
	}
	if n, bad := strconv.ParseUint(port, 10, 16); port != "" && (bad != nil || n == 0) || err == nil && strings.HasSuffix(u.Host, ":") {
		return nil, fmt.Errorf("%s: its port is not a number from 1 to 65535", name)
	}
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("%s: give https:// or http:// and the host of the service, without a path, user or query (the bucket is in Config.Store)", name)
	}
	return u, nil
}

// OpenS3 opens the store in a bucket: it finds credentials, sees that they work, makes the bucket if asked to, and proves
// that the service keeps the condition that versions depend on. Errors say what to do; it takes 30 s at most.
func OpenS3(ctx context.Context, cfg S3Config) (*S3, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Patience == 0 {
		cfg.Patience = 12 * time.Second
	}
	if cfg.S3RedirectTTL == 0 {
		cfg.S3RedirectTTL = 5 * time.Minute
	}
	if cfg.S3RedirectEndpoint == "" {
		cfg.S3RedirectEndpoint = cfg.S3Endpoint
	}
	s := &S3{cfg: cfg}
	s.bucket, s.prefix, _ = splitBucketURL(cfg.Store)
	if err := s.connect(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, step := range []func(context.Context) error{s.checkCredentials, s.findBucket, s.probeCondition, s.openStagingDir} {
		if err := step(ctx); err != nil {
			s.cfg.transport.CloseIdleConnections()
			return nil, err
		}
	}
	return s, nil
}

// connect makes the clients; it sends nothing.
func (s *S3) connect() (err error) {
	s.cfg.transport = newTransport()
	s.credentials = credentials.NewChainCredentials(providers())
	options := func(u *url.URL, tries int) *minio.Options {
		return &minio.Options{
			Creds:        s.credentials,
			Secure:       u.Scheme == "https",
			Region:       s.cfg.S3Region, // given, or minio-go would ask the service, once for each process
			BucketLookup: bucketLookup[s.cfg.S3PathStyle],
			Transport:    honest{s.cfg.transport},
			MaxRetries:   tries,
		}
	}
	u, _ := endpointURL("", s.cfg.S3Endpoint)
	if s.api, err = minio.NewCore(u.Host, options(u, attempts)); err != nil {
		return fmt.Errorf("Config.S3Endpoint: %w", err)
	}
	if s.once, err = minio.New(u.Host, options(u, 1)); err != nil {
		return fmt.Errorf("Config.S3Endpoint: %w", err)
	}
	u, _ = endpointURL("", s.cfg.S3RedirectEndpoint)
	if s.signer, err = minio.New(u.Host, options(u, 1)); err != nil {
		return fmt.Errorf("Config.S3RedirectEndpoint: %w", err)
	}
	return nil
}

// providers is the chain that AWS's own tools go through.
func providers() []credentials.Provider {
	chain := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}
	iam := &credentials.IAM{Client: &http.Client{Timeout: 5 * time.Second}}
	isElsewhere := func(names ...string) bool {
		for _, name := range names {
			if os.Getenv(name) != "" {
				return true
			}
		}
		return false
	}
	switch {
	case os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		iam.Endpoint = os.Getenv("AWS_ENDPOINT_URL_STS")
	case isElsewhere("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
	case strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true"):
		return chain
	default:
		iam.Endpoint = os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
	}
	return append(chain, iam)
}

// checkCredentials finds out whether there are any: minio-go goes on without, and every answer would be a refusal.
func (s *S3) checkCredentials(ctx context.Context) error {
	value, err := s.credentials.GetWithContext(&credentials.CredContext{Client: &http.Client{Timeout: 5 * time.Second}, Context: ctx})
	if err == nil && value.AccessKeyID != "" && value.SecretAccessKey != "" {
		return nil
	}
	return errors.New("no credentials for the bucket were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE and AWS_SHARED_CREDENTIALS_FILE, or run where a web identity or an instance role gives them")
}

// findBucket asks for the beginning of a listing: unlike a HEAD, a refusal of that says why.
func (s *S3) findBucket(ctx context.Context) error {
	err := s.tryList(ctx)
	if code := answerOf(err).Code; s.cfg.S3CreateBucket && code == minio.NoSuchBucket {
		w := s.watch(ctx)
		defer w.end()
		err = s.api.MakeBucket(w.ctx, s.bucket, minio.MakeBucketOptions{Region: s.cfg.S3Region})
		if code := answerOf(err).Code; code == "BucketAlreadyOwnedByYou" || code == "BucketAlreadyExists" { // another process was first
			err = nil
		}
		if err = w.classify(err); err == nil {
			err = s.tryList(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("the bucket %s at %s cannot be used: %s (%w)", s.bucket, s.cfg.S3Endpoint, s.advice(err), err)
	}
	return nil
}

func (s *S3) tryList(ctx context.Context) error {
	w := s.watch(ctx)
	defer w.end()
	for o := range s.api.ListObjectsIter(w.ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix, MaxKeys: 1}) {
		return w.classify(o.Err)
	}
	return w.classify(w.ctx.Err())
}

func answerOf(err error) (answer minio.ErrorResponse) {
	errors.As(err, &answer)
	return answer
}

// advice says what to do about a bucket that cannot be used.
func (s *S3) advice(err error) string {
	answer := answerOf(err)
	switch answer.Code {
	case minio.NoSuchBucket:
		return "correct the name in Config.Store, or set Config.S3CreateBucket=true to have it made"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidClientTokenId", "XAdminUserNotFound":
		return "the credentials are wrong: correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or where else they come from"
	case "RequestTimeTooSkewed":
		return "set the clock of this machine"
	case "AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect", "IllegalLocationConstraintException":
		if answer.Region != "" && answer.Region != s.cfg.S3Region {
			return "set Config.S3Region=" + answer.Region
		}
		return "set Config.S3Region to the bucket's region, and Config.S3Endpoint to the service there"
	}
	switch answer.StatusCode {
	case http.StatusForbidden:
		return "the credentials must be allowed to list, read, write and delete in the bucket"
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		return "set Config.S3Region to the bucket's region, and Config.S3Endpoint to the service there"
	case 0:
		return "is Config.S3Endpoint right, with the right one of http and https, and can it be reached from here?"
	}
	return "is Config.S3Endpoint an S3 service?"
}

// probeCondition proves that of several writes of an object on the condition that it does not exist, at once, exactly one
// succeeds, and none later. Some services ignore the condition; some keep it, but not against each other.
func (s *S3) probeCondition(ctx context.Context) error {
	name := s.prefix + stateDir + "/probe-" + rand.Text()
	var together [4]error
	var done sync.WaitGroup
	for i := range together {
		done.Go(func() { together[i] = s.writeProbe(ctx, name) })
	}
	done.Wait()
	later := s.writeProbe(ctx, name)
	_ = s.remove(ctx, name) // where that is not allowed, it stays: it is small

	written, unsupported := 0, false
	for _, err := range append(together[:], later) {
		switch {
		case err == nil:
			written++
		case answerOf(err).StatusCode == http.StatusNotImplemented:
			unsupported = true
		case !errors.Is(err, errLost) && answerOf(err).StatusCode != http.StatusConflict:
			return fmt.Errorf("the bucket %s at %s cannot be written to: %s (%w)", s.bucket, s.cfg.S3Endpoint, s.advice(err), err)
		}
	}
	kept := written == 1 && !unsupported && answerOf(later).StatusCode == http.StatusPreconditionFailed
	if kept || s.cfg.Overwrite {
		return nil
	}
	return fmt.Errorf("the service at %s does not keep the condition If-None-Match: * on writes (%d of 5 writes of one object succeeded), so a published version could be replaced: choose a service, or a release of it, that does, or keep artifacts in a directory; or set Config.Overwrite=true if versions may be replaced", s.cfg.S3Endpoint, written)
}

func (s *S3) writeProbe(ctx context.Context, name string) error {
	const text = "depot writes this at its start, to see whether the service refuses to write it again\n"
	w := s.watch(ctx)
	defer w.end()
	opts := minio.PutObjectOptions{ContentType: "text/plain", DisableContentSha256: true}
	opts.SetMatchETagExcept("*")
	digest := sha256.Sum256([]byte(text))
	// Without Seek, so that it is tried once: after a second attempt of its own, minio-go would report its refusal.
	_, err := s.api.PutObject(w.ctx, s.bucket, name, io.MultiReader(strings.NewReader(text)), int64(len(text)), "", hex.EncodeToString(digest[:]), opts)
	return w.classify(err)
}

// openStagingDir opens the directory uploads are received in. It may be one that others use too.
func (s *S3) openStagingDir(context.Context) (err error) {
	dir := s.cfg.StagingDir
	if dir == "" {
		dir = os.TempDir()
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("Config.StagingDir: %s: %w%s", dir, err, remedy(err, dir))
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	fd, err := openStagingPath(dir)
	if err != nil {
		return err
	}
	if s.staging, err = openStaging(fd, stagingConfig{}); err != nil {
		_ = unix.Close(fd)
	}
	return err
}

// openStagingPath follows links, as in /tmp on macOS: whoever names the directory says where it is.
func openStagingPath(dir string) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}
