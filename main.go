// Command depot is the upload endpoint behind AgentVerse's "Custom HTTP Storage": it takes
// PUT /<namespace>/<name>/<version>.zip, keeps the bytes, and serves them to those who have a token.
//
// This file is the program: settings in, packages wired together. What it does is in auth, store and handlers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"depot/auth"
	"depot/deploy/daemon"
	"depot/deploy/settings"
	"depot/handlers"
	"depot/store"
)

func main() {
	err := run(daemon.Context(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	if wrong := (usageError)(nil); errors.As(err, &wrong) {
		fmt.Fprintln(os.Stderr, wrong)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "depot: %v\n", err)
		os.Exit(1)
	}
}

// usageError is what is wrong with the command line and the settings, all of it.
type usageError []string

func (e usageError) Error() string {
	return "depot cannot start:\n  " + strings.Join(e, "\n  ") + "\n\"depot --help\" lists all commands and settings."
}

// run is the program as a value: it ends with ctx, or when its command is done.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	p := &program{stdout: stdout, stderr: stderr}
	command := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	if slices.ContainsFunc(args, func(a string) bool { return a == "-h" || a == "-help" || a == "--help" }) {
		command = "help"
	}
	switch {
	case command == "help":
		return p.help()
	case command == "version" && len(args) == 0:
		return p.print(fmt.Sprintf("depot %s %s %s/%s", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH))
	case command == "token":
		return p.token(args)
	}
	commands := map[string]func(context.Context) error{"serve": p.serve, "client-config": p.clientConfig, "access": p.access, "healthcheck": p.healthcheck}
	action, known := commands[command]
	if !known {
		known := []string{"serve", "client-config", "access", "token", "healthcheck", "version", "help"}
		return usageError{"this is not one of the commands " + strings.Join(known, ", ") + ", or takes no arguments" + settings.DidYouMean(command, known)}
	}
	p.flags, p.args, p.env = args, args, env
	own := map[string]map[string]*string{ // flags that are no settings
		"client-config": {"toml": &p.toml},
		"access":        {"token-file": &p.tokenFile, "action": &p.action, "key": &p.key},
	}
	if command == "access" && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = append([]string{"--access-file=" + args[0]}, args[1:]...)
	}
	table, check := p.settings(), p.check
	if command == "healthcheck" { // whatever else may be wrong by now, the server that runs is asked
		table, env = table.Only(env, "DEPOT_LISTEN", "DEPOT_TLS_CERT")
		check = func() error { return nil }
	}
	if wrong := table.Load(args, env, own[command], check); len(wrong) > 0 {
		return usageError(wrong)
	}
	return action(ctx)
}

// program is one run of a command, with its settings.
type program struct {
	stdout, stderr io.Writer
	flags          []string // as given
	args, env      []string // what the settings were read from, to read them again

	listen, adminListen          string
	uploadURL, downloadURLBase   string
	proxies                      []netip.Prefix
	auth                         auth.Config
	bucket                       store.S3Config // its Store and Overwrite are for a directory too
	redirect                     bool
	toml, tokenFile, action, key string // flags of client-config and access
	maxSize                      int64
	tlsCert, tlsKey              string
	drain                        time.Duration
	logFormat                    string
	logLevel                     slog.Level
	kept                         map[string]keptToken // by name: the tokens that were not given
}

type keptToken struct {
	path string
	made bool // in this run
}

func (p *program) settings() settings.Table {
	const yesNo = "give true or false"
	return settings.Table{
		settings.Plain("DEPOT_LISTEN", "127.0.0.1:8080", "host:port to listen on; :8080 for every address of the machine", settings.Parsed(&p.listen, settings.Address, "give host:port, for example 127.0.0.1:8080")),
		settings.Plain("DEPOT_ADMIN_LISTEN", "no admin listener", "host:port for metrics, health and profiles, without credentials: keep it away from clients", settings.Parsed(&p.adminListen, settings.Address, "give host:port, for example 127.0.0.1:9090")),
		settings.Plain("DEPOT_STORE", "./depot-data", "where the artifacts are kept: a directory, or a bucket as s3://bucket/prefix (its credentials: AWS_ACCESS_KEY_ID and so on)", settings.Text(&p.bucket.Store)),
		settings.Plain("DEPOT_UPLOAD_URL", "http(s)://<listen>", "upload_url as AgentVerse is given it; uploads and deletes are served below its path", settings.Text(&p.uploadURL)),
		settings.Plain("DEPOT_DOWNLOAD_URL_BASE", "http(s)://<listen>", "download_url_base as AgentVerse is given it; downloads are served below its path", settings.Text(&p.downloadURLBase)),
		settings.Secret("DEPOT_UPLOAD_TOKEN", "generated in a directory", "token for uploads and deletes; several with commas between them", settings.Lines(&p.auth.UploadToken)),
		settings.Plain("DEPOT_UPLOAD_AUTH", "bearer", "bearer, or none to let everyone upload and delete", settings.Text((*string)(&p.auth.UploadAuth))),
		settings.Secret("DEPOT_DOWNLOAD_TOKEN", "generated in a directory", "token for downloads; several with commas between them", settings.Lines(&p.auth.DownloadToken)),
		settings.Plain("DEPOT_DOWNLOAD_AUTH", "query_param", "query_param, bearer_header, or none to let everyone download; a bearer header works under query_param too", settings.Text((*string)(&p.auth.DownloadAuth))),
		settings.Plain("DEPOT_DOWNLOAD_PARAM", "token", "name of the query parameter under query_param", settings.Text(&p.auth.DownloadParam)),
		settings.Plain("DEPOT_ACCESS_FILE", "no file", "TOML file with named tokens and issuers of JWTs, and what each may do; with it no tokens are generated", settings.Text(&p.auth.AccessFile)),
		settings.Plain("DEPOT_OVERWRITE", "false", "true lets an upload replace a published version by other bytes", settings.Parsed(&p.bucket.Overwrite, strconv.ParseBool, yesNo)),
		settings.Plain("DEPOT_MAX_SIZE", "1GiB", "largest archive that is taken; for example 500MiB or 2GiB; at most 5GiB in a bucket", settings.Parsed(&p.maxSize, settings.Size, "give a size like 500MiB or 2GiB; the units are KiB, MiB, GiB, TiB")),
		settings.Plain("DEPOT_STAGING_DIR", "the system's temporary directory", "where uploads into a bucket are received first; it needs room for all that are under way", settings.Text(&p.bucket.StagingDir)),
		settings.Plain("DEPOT_S3_ENDPOINT", "https://s3.amazonaws.com", "URL of the S3 service that has the bucket", settings.Text(&p.bucket.S3Endpoint)),
		settings.Plain("DEPOT_S3_REGION", "us-east-1", "region of the bucket", settings.Text(&p.bucket.S3Region)),
		settings.Plain("DEPOT_S3_PATH_STYLE", "auto", "true for https://endpoint/bucket/, false for https://bucket.endpoint/; auto is false for AWS, Google and Aliyun", settings.Text(&p.bucket.S3PathStyle)),
		settings.Plain("DEPOT_S3_CREATE_BUCKET", "false", "true makes the bucket if there is none", settings.Parsed(&p.bucket.S3CreateBucket, strconv.ParseBool, yesNo)),
		settings.Plain("DEPOT_S3_REDIRECT", "false", "true answers downloads with a redirect to a presigned URL in the bucket", settings.Parsed(&p.redirect, strconv.ParseBool, yesNo)),
		settings.Plain("DEPOT_S3_REDIRECT_ENDPOINT", "as DEPOT_S3_ENDPOINT", "URL of the S3 service as those who download reach it", settings.Text(&p.bucket.S3RedirectEndpoint)),
		settings.Plain("DEPOT_S3_REDIRECT_TTL", "5m", "how long a presigned URL is good for, 1s to 168h", settings.Parsed(&p.bucket.S3RedirectTTL, settings.Lifetime, "give a duration like 5m")),
		settings.Plain("DEPOT_DRAIN_TIMEOUT", "25s", "how long requests in flight may take after SIGTERM", settings.Parsed(&p.drain, settings.Timeout, "give a duration like 25s or 2m")),
		settings.Plain("DEPOT_TRUSTED_PROXIES", "no proxies", "addresses or networks, with commas between them, whose X-Forwarded-For the log believes", settings.Parsed(&p.proxies, settings.Networks, "give addresses or networks like 10.0.0.0/8,192.0.2.1")),
		settings.Plain("DEPOT_TLS_CERT", "no TLS", "file with the certificate and its chain, in PEM", settings.Text(&p.tlsCert)),
		settings.Plain("DEPOT_TLS_KEY", "no TLS", "file with the certificate's key, in PEM", settings.Text(&p.tlsKey)),
		settings.Plain("DEPOT_LOG_FORMAT", "text on a terminal, else json", "text or json", settings.Parsed(&p.logFormat, settings.Format, "give text or json")),
		settings.Plain("DEPOT_LOG_LEVEL", "info", "debug, info, warn or error", settings.Parsed(&p.logLevel, settings.Level, "give debug, info, warn or error")),
	}
}

// check has the packages validate their settings, before anything is made or opened.
func (p *program) check() error {
	config, inBucket, errs := p.auth, p.inBucket(), []error(nil)
	if inBucket {
		errs = append(errs, p.bucket.Validate())
		if p.maxSize > store.LargestObject {
			errs = append(errs, errors.New("Config.MaxSize: a bucket takes at most 5GiB in one request"))
		}
	} else {
		if p.redirect {
			errs = append(errs, errors.New("Config.S3Redirect: downloads can be redirected to a bucket only, and Config.Store is a directory"))
		}
		_, _ = config.Complete(func(string) (string, error) { return auth.NewToken(), nil })
	}
	_, err := handlers.LoadCertificate(p.tlsCert, p.tlsKey)
	errs = append(errs, err)
	authenticator, err := auth.New(config)
	errs = append(errs, err)
	_, err = handlers.New(p.handlers(nil, authenticator, nil))
	return errors.Join(append(errs, err)...)
}

// inBucket reports whether the store is a bucket, or meant to be something else that is no directory.
func (p *program) inBucket() bool {
	return strings.Contains(p.bucket.Store, "://") || strings.HasPrefix(p.bucket.Store, "s3:")
}

func (p *program) handlers(s store.Store, a *auth.Authenticator, log *slog.Logger) handlers.Config {
	return handlers.Config{Store: s, Auth: a, Log: log, UploadURL: p.url(p.uploadURL), DownloadURLBase: p.url(p.downloadURLBase), Overwrite: p.bucket.Overwrite, MaxSize: p.maxSize, TrustedProxies: p.proxies, Version: version()}
}

// url is one of the two URLs without a slash at its end, by default made from the listening address.
func (p *program) url(given string) string {
	if given != "" {
		return strings.TrimRight(given, "/")
	}
	host, port, _ := net.SplitHostPort(p.listen)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	if p.tlsCert != "" {
		return "https://" + net.JoinHostPort(host, port)
	}
	return "http://" + net.JoinHostPort(host, port)
}

// openDisk opens a store in a directory, and takes from it the tokens that were not given.
func (p *program) openDisk() (*store.Disk, error) {
	disk, err := store.OpenDisk(store.DiskConfig{Dir: p.bucket.Store})
	if err != nil {
		return nil, err
	}
	p.kept = map[string]keptToken{}
	_, err = p.auth.Complete(func(name string) (string, error) {
		token, made, err := disk.Secret(name, auth.NewToken)
		path, _ := filepath.Abs(store.SecretPath(p.bucket.Store, name)) // the line may be pasted in another directory
		p.kept[name] = keptToken{path, made}
		return token, err
	})
	if err != nil {
		_ = disk.Close()
	}
	return disk, err
}

// open opens the store and says what a server on it is configured with.
func (p *program) open(ctx context.Context, log *slog.Logger) (cfg handlers.Config, closer io.Closer, err error) {
	var redirect handlers.Redirect
	var space func() (free, size uint64, err error)
	var s store.Store
	if p.inBucket() {
		bucket, err := store.OpenS3(ctx, p.bucket)
		if err != nil {
			return cfg, nil, err
		}
		if s, closer, space = bucket, bucket, bucket.Space; p.redirect {
			redirect = bucket.Presign
		}
	} else {
		disk, err := p.openDisk()
		if err != nil {
			return cfg, nil, err
		}
		if s, closer, space = disk, disk, disk.Space; !disk.KeepsDigests() {
			log.Warn("the file system keeps no extended attributes: artifacts are served without Repr-Digest")
		}
	}
	p.auth.Log = log
	authenticator, err := auth.New(p.auth)
	if err != nil {
		err = fmt.Errorf("the tokens kept in the store: %w", err)
	}
	cfg = p.handlers(s, authenticator, log)
	cfg.Redirect, cfg.Space = redirect, space
	certificate, certErr := handlers.LoadCertificate(p.tlsCert, p.tlsKey)
	cfg.Certificate = certificate
	return cfg, closer, errors.Join(err, certErr)
}

// reload reads again whatever can change while the server runs: the files of secrets and the access file; the certificate. What
// is wrong with the one does not keep the other back.
func (p *program) reload(a *auth.Authenticator, c *handlers.Certificate, asked bool) (changed string, err error) {
	fresh, access := &program{}, false
	table := fresh.settings()
	if wrong := table.Read(p.args, p.env, nil); len(wrong) > 0 {
		err = errors.New(strings.Join(wrong, "\n"))
	} else if !fresh.inBucket() {
		_, err = fresh.auth.Complete(func(name string) (string, error) { return store.ReadSecret(fresh.bucket.Store, name) })
	}
	if err == nil {
		access, err = a.Reload(fresh.auth, asked)
	}
	certificate, certErr := c.Reload()
	switch {
	case access && certificate:
		changed = "access, certificate"
	case access:
		changed = "access"
	case certificate:
		changed = "certificate"
	}
	if err = errors.Join(err, certErr); err != nil {
		err = errors.New(strings.ReplaceAll(table.Spoken(err), "\n", "; "))
	}
	return changed, err
}

func (p *program) serve(ctx context.Context) error {
	log, hangups := settings.Logger(p.stderr, p.logFormat, p.logLevel), daemon.Hangups()
	// First of all, so that a start that fails on a busy address has made nothing.
	listener, err := daemon.Listen(ctx, p.listen)
	if err != nil {
		return fmt.Errorf("DEPOT_LISTEN: %w: choose another address (ports below 1024 are for root), or free this one", err)
	}
	defer listener.Close()
	admin, err := daemon.ListenOnly(ctx, p.adminListen)
	if err != nil {
		return fmt.Errorf("DEPOT_ADMIN_LISTEN: %w: choose another address, or free this one", err)
	}
	if admin != nil {
		defer admin.Close()
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	host, _, _ := net.SplitHostPort(p.listen)
	if _, wanted, _ := net.SplitHostPort(p.listen); wanted != port && wanted != "0" {
		log.Warn("the service manager has given a socket: DEPOT_LISTEN is not looked at", "address", listener.Addr().String())
	}
	p.listen = net.JoinHostPort(host, port) // the port is the system's choice where 0 was given
	cfg, closer, err := p.open(ctx, log)
	if err != nil {
		return errors.New(p.settings().Spoken(err))
	}
	cfg.Admin = admin
	server, err := handlers.New(cfg)
	if err != nil {
		return errors.New(p.settings().Spoken(err))
	}
	if p.auth.UploadAuth == auth.None {
		log.Warn("everyone who reaches this address may upload and delete: DEPOT_UPLOAD_AUTH is none")
	}
	if p.auth.AccessFile != "" {
		log.Info("who may do what is in the access file", "file", p.auth.AccessFile, "entries", cfg.Auth.Entries())
		if _, err := store.ReadSecret(p.bucket.Store, auth.UploadName); err == nil && !p.inBucket() {
			log.Warn("the tokens that an earlier start generated are not valid beside an access file", "directory", p.bucket.Store)
		}
	}
	if err := p.banner(); err != nil {
		return err
	}
	p.auth = auth.Config{} // the authenticator has the tokens as digests; it and this process's environment are all that is left of them
	first, cancel := context.WithTimeout(ctx, 3*time.Second)
	cfg.Auth.Refresh(first)
	cancel()
	go daemon.Watch(ctx, hangups, log, func(asked bool) (string, error) {
		go cfg.Auth.Refresh(ctx)
		changed, err := p.reload(cfg.Auth, cfg.Certificate, asked)
		server.Reloaded(err)
		return changed, err
	})
	log.Info("listening", "address", listener.Addr().String(), "store", p.bucket.Store, "upload_url", p.url(p.uploadURL), "download_url_base", p.url(p.downloadURLBase), "version", version())
	defer daemon.Ready(ctx)()
	if err := server.Serve(ctx, listener, p.drain); err != nil {
		return err // and the store stays open: requests that were cut off may still be in it
	}
	log.Info("stopped")
	return closer.Close()
}

// client is what a client has to be told; say chooses how a token is put. What the access file grants is not known here.
func (p *program) client(say func(token string, kept keptToken) string) handlers.Client {
	return handlers.NewClient(p.handlers(nil, nil, nil), p.auth, func(name string, given []string) string {
		if len(given) == 0 {
			return "<a token of the access file>"
		}
		return say(given[0], p.kept[name])
	})
}

// banner greets someone who started depot without giving it tokens. It prints a token only in the run that made it; later
// the lines read it from where it is kept. A token that was given is never printed.
func (p *program) banner() error {
	if len(p.kept) == 0 {
		return nil
	}
	made := false
	c := p.client(func(token string, kept keptToken) string {
		made = made || kept.made
		switch {
		case kept.path == "":
			return "<the one you set>"
		case kept.made:
			return token
		}
		return handlers.ShellRead(kept.path)
	})
	return p.print(c.Welcome(p.bucket.Store, made, p.flags))
}

func (p *program) clientConfig(context.Context) error {
	_, err := p.auth.Complete(func(name string) (string, error) { return store.ReadSecret(p.bucket.Store, name) })
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no tokens are kept in %s: give client-config the settings the server has, or start the server first", p.bucket.Store)
	}
	if err == nil {
		_, err = auth.New(p.auth)
	}
	if err != nil {
		return fmt.Errorf("the tokens kept in %s: %w", p.bucket.Store, err)
	}
	c := p.client(func(token string, _ keptToken) string { return token })
	if p.toml != "" {
		return p.print(c.TOML())
	}
	return p.print(c.Environment())
}

// token makes credentials: a random token, whose entry for the access file goes beside it to standard error; a pair of keys;
// or a JWT signed with one.
func (p *program) token(args []string) error {
	which := "new"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		which, args = args[0], args[1:]
	}
	maker, known := auth.Makers()[which]
	if !known {
		return usageError{"depot token makes new, keygen or jwt" + settings.DidYouMean(which, []string{"new", "keygen", "jwt"})}
	}
	if wrong := settings.Table(nil).Read(args, nil, maker.Flags); len(wrong) > 0 {
		return usageError(wrong)
	}
	text, beside, err := maker.Make()
	if err != nil {
		return err
	}
	if beside != "" {
		_, _ = fmt.Fprintln(p.stderr, beside)
	}
	return p.print(text)
}

// access prints who may do what, or whether one token may do one thing.
func (p *program) access(ctx context.Context) error {
	p.auth.Log = settings.Logger(p.stderr, p.logFormat, p.logLevel)
	_, _ = p.auth.Complete(func(name string) (string, error) {
		if kept, err := store.ReadSecret(p.bucket.Store, name); err == nil {
			return kept, nil
		}
		return auth.NewToken(), nil // the next start makes one
	})
	authenticator, err := auth.New(p.auth)
	if err != nil {
		return errors.New(p.settings().Spoken(err))
	}
	if p.tokenFile+p.action+p.key == "" {
		return p.print(authenticator.Table())
	}
	key, keyErr := store.ParseKey(p.key)
	if keyErr != nil {
		keyErr = fmt.Errorf("--key: %w", keyErr)
	}
	allowed, why, err := authenticator.ExplainFile(ctx, p.tokenFile, p.action, key.Namespace())
	switch err = errors.Join(err, keyErr); {
	case err != nil:
		return usageError(strings.Split(err.Error(), "\n"))
	case !allowed:
		return errors.New("no: " + why)
	}
	return p.print("yes: " + why)
}

func (p *program) healthcheck(ctx context.Context) error { return handlers.Ready(ctx, p.url("")) }

func (p *program) print(text string) error {
	_, err := fmt.Fprintln(p.stdout, strings.TrimSuffix(text, "\n"))
	return err
}

func (p *program) help() error {
	var b strings.Builder
	b.WriteString(`depot keeps artifacts: the endpoint behind AgentVerse's "Custom HTTP Storage".

Usage: depot [command] [flags]

Commands:
  serve           take uploads and answer downloads (what depot does without a command)
  client-config   print AgentVerse's settings for this endpoint, tokens included; --toml for its configuration file
  access [FILE]   check the access file and print who may do what; with --token-file F --action A --key K, whether
                  the token in that file may do that, and why (exit status 1 if not)
  token [new]     print a new random token, and to standard error its entry for the access file: --name N,
                  --allow upload,delete,download (default upload), --namespace a,b-* (default *)
  token keygen    make a pair of keys for signing JWTs, and print the entry for the access file that trusts them:
                  --alg RS256, ES256 (default) or EdDSA; --out F writes F.pem, the secret one, and F.pub.pem
  token jwt       print a service token signed with --key F.pem for --name N; --ttl (90d); where given, it may do no more
                  than --allow upload,delete and only in --namespace a,b-*; --issuer and --audience as in the access file
  healthcheck     ask the endpoint on this machine whether it is ready; exit status 1 if not
  version         print the version
  help            print this

Settings, as flag or environment variable. A flag wins over the variable. A secret has no flag; instead of its variable,
the same name with _FILE can name a file that holds it, several one a line.

`)
	b.WriteString(p.settings().Help())
	b.WriteString("\nExit status: 0 done, 1 failed, 2 wrong command line or settings; 130 or 143 when a second signal cut the end short.")
	return p.print(b.String())
}

// version is what the go command stamped into the binary: a tag, or a commit and its time.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "(unknown)"
}
