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
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"depot/auth"
	"depot/handlers"
	"depot/store"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		os.Exit(128 + int((<-signals).(syscall.Signal))) // a second signal does not wait for the drain
	}()
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
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
		return p.print(version())
	case command == "token":
		return p.token(args)
	}
	commands := map[string]func(context.Context) error{"serve": p.serve, "client-config": p.clientConfig, "access": p.access, "healthcheck": p.healthcheck}
	action, known := commands[command]
	if !known {
		known := []string{"serve", "client-config", "access", "token", "healthcheck", "version", "help"}
		return usageError{"this is not one of the commands " + strings.Join(known, ", ") + ", or takes no arguments" + didYouMean(command, known)}
	}
	p.flags = args
	own := map[string]map[string]*string{ // flags that are no settings
		"client-config": {"toml": &p.toml},
		"access":        {"token-file": &p.tokenFile, "action": &p.action, "key": &p.key},
	}
	if command == "access" && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = append([]string{"--access-file=" + args[0]}, args[1:]...)
	}
	if err := p.load(args, env, own[command]); err != nil {
		return err
	}
	return action(ctx)
}

// program is one run of a command, with its settings.
type program struct {
	stdout, stderr io.Writer
	flags          []string // as given

	listen, uploadURL, downloadURLBase string
	auth                               auth.Config
	bucket                             store.S3Config // its Store and Overwrite are for a directory too
	redirect                           bool
	toml, tokenFile, action, key       string // flags of client-config and access
	maxSize                            int64
	drain                              time.Duration
	logFormat                          string
	logLevel                           slog.Level
	kept                               map[string]keptToken // by name: the tokens that were not given
}

type keptToken struct {
	path string
	made bool // in this run
}

// setting is one row of the table that is --help, and README's. A flag wins over the environment, that over the default. A
// secret has no flag, but can come from the file that NAME_FILE names.
type setting struct {
	name, fallback, meaning string
	set                     func(string) error
	secret                  bool
}

func (s setting) flag() string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(s.name, "DEPOT_"), "_", "-"))
}

func (p *program) settings() []setting {
	const yesNo = "give true or false"
	return []setting{
		{"DEPOT_LISTEN", "127.0.0.1:8080", "host:port to listen on; :8080 for every address of the machine", parsed(&p.listen, address, "give host:port, for example 127.0.0.1:8080"), false},
		{"DEPOT_STORE", "./depot-data", "where the artifacts are kept: a directory, or a bucket as s3://bucket/prefix", text(&p.bucket.Store), false},
		{"DEPOT_UPLOAD_URL", "http://<listen>", "upload_url as AgentVerse is given it; uploads and deletes are served below its path", text(&p.uploadURL), false},
		{"DEPOT_DOWNLOAD_URL_BASE", "http://<listen>", "download_url_base as AgentVerse is given it; downloads are served below its path", text(&p.downloadURLBase), false},
		{"DEPOT_UPLOAD_TOKEN", "generated", "token for uploads and deletes; several with commas between them; a bucket needs one given", lines(&p.auth.UploadToken), true},
		{"DEPOT_UPLOAD_AUTH", "bearer", "bearer, or none to let everyone upload and delete", text((*string)(&p.auth.UploadAuth)), false},
		{"DEPOT_DOWNLOAD_TOKEN", "generated", "token for downloads; several with commas between them; a bucket needs one given", lines(&p.auth.DownloadToken), true},
		{"DEPOT_DOWNLOAD_AUTH", "query_param", "query_param, bearer_header, or none to let everyone download; a bearer header works under query_param too", text((*string)(&p.auth.DownloadAuth)), false},
		{"DEPOT_DOWNLOAD_PARAM", "token", "name of the query parameter under query_param", text(&p.auth.DownloadParam), false},
		{"DEPOT_ACCESS_FILE", "no file", "TOML file with named tokens and what each may do; with it no tokens are generated", text(&p.auth.AccessFile), false},
		{"DEPOT_OVERWRITE", "false", "true lets an upload replace a published version by other bytes", parsed(&p.bucket.Overwrite, strconv.ParseBool, yesNo), false},
		{"DEPOT_MAX_SIZE", "1GiB", "largest archive that is taken; for example 500MiB or 2GiB; at most 5GiB in a bucket", parsed(&p.maxSize, size, "give a size like 500MiB or 2GiB; the units are KiB, MiB, GiB, TiB"), false},
		{"DEPOT_STAGING_DIR", "the system's temporary directory", "where uploads into a bucket are received first; it needs room for all that are under way", text(&p.bucket.StagingDir), false},
		{"DEPOT_S3_ENDPOINT", "https://s3.amazonaws.com", "URL of the S3 service that has the bucket", text(&p.bucket.S3Endpoint), false},
		{"DEPOT_S3_REGION", "us-east-1", "region of the bucket", text(&p.bucket.S3Region), false},
		{"DEPOT_S3_PATH_STYLE", "auto", "true for https://endpoint/bucket/, false for https://bucket.endpoint/; auto is false for AWS, Google and Aliyun", text(&p.bucket.S3PathStyle), false},
		{"DEPOT_S3_CREATE_BUCKET", "false", "true makes the bucket if there is none", parsed(&p.bucket.S3CreateBucket, strconv.ParseBool, yesNo), false},
		{"DEPOT_S3_REDIRECT", "false", "true answers downloads with a redirect to a presigned URL in the bucket", parsed(&p.redirect, strconv.ParseBool, yesNo), false},
		{"DEPOT_S3_REDIRECT_ENDPOINT", "as DEPOT_S3_ENDPOINT", "URL of the S3 service as those who download reach it", text(&p.bucket.S3RedirectEndpoint), false},
		{"DEPOT_S3_REDIRECT_TTL", "5m", "how long a presigned URL is good for, 1s to 168h", parsed(&p.bucket.S3RedirectTTL, lifetime, "give a duration like 5m"), false},
		{"DEPOT_DRAIN_TIMEOUT", "25s", "how long requests in flight may take after SIGTERM", parsed(&p.drain, timeout, "give a duration like 25s or 2m"), false},
		{"DEPOT_LOG_FORMAT", "text on a terminal, else json", "text or json", parsed(&p.logFormat, format, "give text or json"), false},
		{"DEPOT_LOG_LEVEL", "info", "debug, info, warn or error", parsed(&p.logLevel, level, "give debug, info, warn or error"), false},
	}
}

func text(target *string) func(string) error {
	return func(v string) error { *target = v; return nil }
}

func lines(target *[]string) func(string) error {
	return func(v string) error {
		*target = nil
		for line := range strings.SplitSeq(v, "\n") {
			*target = append(*target, strings.TrimSpace(line))
		}
		return nil
	}
}

// parsed reports a bad value without repeating it: it may be a secret that was meant for another setting.
func parsed[T any](target *T, parse func(string) (T, error), advice string) func(string) error {
	return func(v string) (err error) {
		if *target, err = parse(v); err != nil {
			return errors.New(advice)
		}
		return nil
	}
}

func address(v string) (string, error) {
	_, port, err := net.SplitHostPort(v)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	return v, err
}

func size(v string) (int64, error) {
	digits := strings.TrimRight(v, "BKMGTi")
	shift, known := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[v[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n < 1 || n > (1<<62)>>shift {
		return 0, errors.New("not a size")
	}
	return n << shift, nil
}

func timeout(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if d < 0 {
		err = errors.New("negative")
	}
	return d, err
}

func lifetime(v string) (time.Duration, error) {
	d, err := timeout(v)
	if d == 0 {
		err = errors.New("nothing")
	}
	return d, err
}

func format(v string) (string, error) {
	if v != "text" && v != "json" {
		return "", errors.New("neither")
	}
	return v, nil
}

func level(v string) (l slog.Level, err error) {
	err = l.UnmarshalText([]byte(v))
	return l, err
}

// readFlags reads the command line: what each setting's flag says, and what is wrong. It does not repeat an argument it
// cannot read, since that may be a secret. (Package flag would stop at the first bad one, and print it.)
func (p *program) readFlags(args []string, table []setting, own map[string]*string) (flags map[string]string, wrong []string) {
	flags = map[string]string{}
	for i := 0; i < len(args); i++ {
		dashed := strings.HasPrefix(args[i], "-") && !strings.HasPrefix(args[i], "---")
		name, value, hasValue := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		at := slices.IndexFunc(table, func(s setting) bool { return dashed && s.flag() == name })
		switch {
		case dashed && own[name] != nil && name == "toml" && !hasValue:
			*own[name] = "true"
			continue
		case dashed && own[name] != nil && name != "toml" && (hasValue || i+1 < len(args)):
			if !hasValue {
				i++
				value = args[i]
			}
			*own[name] = value
			continue
		case at >= 0 && table[at].secret:
			wrong = append(wrong, fmt.Sprintf("argument %d: a secret has no flag: set %s or %s_FILE", i+1, table[at].name, table[at].name))
			continue
		case at >= 0 && !hasValue && table[at].fallback == "false":
			value, hasValue = "true", true
		case at >= 0 && !hasValue && i+1 < len(args):
			i++
			value, hasValue = args[i], true
		}
		if at < 0 || !hasValue {
			wrong = append(wrong, fmt.Sprintf("argument %d is no flag of this command, or lacks its value: write --flag=value", i+1))
			continue
		}
		flags[table[at].name] = value
	}
	return flags, wrong
}

// load reads flags and environment and reports everything that is wrong with them at once.
func (p *program) load(args, env []string, own map[string]*string) error {
	table := p.settings()
	flags, wrong := p.readFlags(args, table, own)
	environment, known := map[string]string{}, []string{}
	for _, s := range table {
		if known = append(known, s.name); s.secret {
			known = append(known, s.name+"_FILE")
		}
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		environment[name] = value
		if strings.HasPrefix(name, "DEPOT_") && !slices.Contains(known, name) && !fromKubernetes(name) {
			wrong = append(wrong, name+": there is no such setting: unset it"+didYouMean(name, known))
		}
	}
	for _, s := range table {
		if err := s.apply(flags, environment); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", s.name, err))
		}
	}
	// The packages know what makes their part valid.
	unread := len(wrong)
	for problem := range strings.SplitSeq(p.spoken(p.check()), "\n") {
		name, _, _ := strings.Cut(problem, ":")
		if problem != "" && !slices.ContainsFunc(wrong[:unread], func(w string) bool { return strings.HasPrefix(w, name+":") }) {
			wrong = append(wrong, problem)
		}
	}
	if len(wrong) > 0 {
		return usageError(wrong)
	}
	return nil
}

func (s setting) apply(flags, environment map[string]string) error {
	value, present := flags[s.name]
	if !present {
		value, present = environment[s.name]
	}
	if path, inFile := environment[s.name+"_FILE"]; s.secret && inFile && !present {
		content, err := os.ReadFile(path)
		if err != nil { // without the path: it may be the secret itself, put into the wrong variable
			return fmt.Errorf("the file that %s_FILE names: %w: make it readable, or unset the variable", s.name, errors.Unwrap(err))
		}
		return s.set(strings.TrimSpace(string(content)))
	}
	switch {
	case s.secret && present:
		return s.set(strings.ReplaceAll(value, ",", "\n"))
	case present && strings.TrimSpace(value) == "":
		return errors.New("it is set but empty: give it a value or unset it")
	case present:
		return s.set(value)
	case s.secret, strings.ContainsAny(s.fallback, "< "): // described, not given: depends on what is not known yet
		return nil
	}
	return s.set(s.fallback)
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
	authenticator, err := auth.New(config)
	errs = append(errs, err)
	_, err = handlers.New(p.handlers(nil, authenticator, nil))
	return errors.Join(append(errs, err)...)
}

// inBucket reports whether the store is a bucket, or meant to be something else that is no directory.
func (p *program) inBucket() bool {
	return strings.Contains(p.bucket.Store, "://") || strings.HasPrefix(p.bucket.Store, "s3:")
}

// spoken is an error's text in the words of those who set variables: the packages speak of the fields of their Configs.
func (p *program) spoken(err error) string {
	if err == nil {
		return ""
	}
	table := p.settings()
	return regexp.MustCompile(`Config\.\w+`).ReplaceAllStringFunc(err.Error(), func(field string) string {
		name := "DEPOT" + strings.ToUpper(strings.TrimPrefix(field, "Config."))
		at := slices.IndexFunc(table, func(s setting) bool { return strings.ReplaceAll(s.name, "_", "") == name })
		if at < 0 {
			return field // part of a path, say
		}
		return table[at].name
	})
}

// fromKubernetes reports whether Kubernetes sets this for a Service called depot.
func fromKubernetes(name string) bool {
	return name == "DEPOT_PORT" || strings.HasPrefix(name, "DEPOT_PORT_") || strings.HasPrefix(name, "DEPOT_SERVICE_")
}

func (p *program) handlers(s store.Store, a *auth.Authenticator, log *slog.Logger) handlers.Config {
	return handlers.Config{Store: s, Auth: a, Log: log, UploadURL: p.url(p.uploadURL), DownloadURLBase: p.url(p.downloadURLBase), Overwrite: p.bucket.Overwrite, MaxSize: p.maxSize}
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
	var s store.Store
	if p.inBucket() {
		bucket, err := store.OpenS3(ctx, p.bucket)
		if err != nil {
			return cfg, nil, err
		}
		if s, closer = bucket, bucket; p.redirect {
			redirect = bucket.Presign
		}
	} else {
		disk, err := p.openDisk()
		if err != nil {
			return cfg, nil, err
		}
		if s, closer = disk, disk; !disk.KeepsDigests() {
			log.Warn("the file system keeps no extended attributes: artifacts are served without Repr-Digest")
		}
	}
	authenticator, err := auth.New(p.auth)
	if err != nil {
		err = fmt.Errorf("the tokens kept in the store: %w", err)
	}
	cfg = p.handlers(s, authenticator, log)
	cfg.Redirect = redirect
	return cfg, closer, err
}

func (p *program) serve(ctx context.Context) error {
	log := p.logger()
	// First of all, so that a start that fails on a busy address has made nothing.
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.listen)
	if err != nil {
		return fmt.Errorf("DEPOT_LISTEN: %w: choose another address, or free this one", err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	host, _, _ := net.SplitHostPort(p.listen)
	p.listen = net.JoinHostPort(host, port) // the port is the system's choice where 0 was given
	cfg, closer, err := p.open(ctx, log)
	if err != nil {
		return errors.New(p.spoken(err))
	}
	server, err := handlers.New(cfg)
	if err != nil {
		return errors.New(p.spoken(err))
	}
	if p.auth.UploadAuth == auth.None {
		log.Warn("everyone who reaches this address may upload and delete: DEPOT_UPLOAD_AUTH is none")
	}
	if err := p.banner(); err != nil {
		return err
	}
	log.Info("listening", "address", listener.Addr().String(), "store", p.bucket.Store, "upload_url", p.url(p.uploadURL), "download_url_base", p.url(p.downloadURLBase), "version", version())
	if err := server.Serve(ctx, listener, p.drain); err != nil {
		return err // and the store stays open: requests that were cut off may still be in it
	}
	log.Info("stopped")
	return closer.Close()
}

func (p *program) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: p.logLevel}
	if f, ok := p.stderr.(*os.File); ok && p.logFormat == "" {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
			p.logFormat = "text"
		}
	}
	if p.logFormat == "text" {
		return slog.New(slog.NewTextHandler(p.stderr, options))
	}
	return slog.New(slog.NewJSONHandler(p.stderr, options))
}

// client is what a client has to be told; say chooses how a token is put. What the access file grants is not known here.
func (p *program) client(say func(token string, kept keptToken) string) handlers.Client {
	c := handlers.Client{UploadURL: p.url(p.uploadURL), DownloadURLBase: p.url(p.downloadURLBase), DownloadAuth: p.auth.DownloadAuth, DownloadParam: p.auth.DownloadParam}
	token := func(given []string, name string) string {
		if len(given) == 0 {
			return "<a token of the access file>"
		}
		return say(given[0], p.kept[name])
	}
	if p.auth.UploadAuth != auth.None {
		c.UploadToken = token(p.auth.UploadToken, auth.UploadName)
	}
	if p.auth.DownloadAuth != auth.None {
		c.DownloadToken = token(p.auth.DownloadToken, auth.DownloadName)
	}
	return c
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

// token prints a new token to standard output, where it can go into a file, and its entry for the access file beside it.
func (p *program) token(args []string) error {
	if len(args) > 0 && args[0] == "new" {
		args = args[1:]
	}
	name := "NAME"
	_, wrong := p.readFlags(args, nil, map[string]*string{"name": &name})
	if len(wrong) > 0 {
		return usageError(wrong)
	}
	token := auth.NewToken()
	_, _ = fmt.Fprintln(p.stderr, auth.Entry(name, token))
	return p.print(token)
}

// access prints who may do what, or whether one token may do one thing.
func (p *program) access(context.Context) error {
	_, _ = p.auth.Complete(func(string) (string, error) { return auth.NewToken(), nil })
	authenticator, err := auth.New(p.auth)
	if err != nil {
		return errors.New(p.spoken(err))
	}
	if p.tokenFile+p.action+p.key == "" {
		return p.print(authenticator.Table())
	}
	action, err := auth.ParseAction(p.action)
	if err != nil {
		return usageError{"--action: " + err.Error()}
	}
	key, err := store.ParseKey(p.key)
	if err != nil {
		return usageError{"--key: " + err.Error()}
	}
	secret, err := os.ReadFile(p.tokenFile)
	if err != nil {
		return usageError{"--token-file: name a readable file with the token"}
	}
	allowed, why := authenticator.Explain(strings.TrimSpace(string(secret)), action, key.Namespace())
	if !allowed {
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
  token [new]     print a new random token, and to standard error its entry for the access file; --name N names it
  healthcheck     ask the endpoint on this machine whether it is ready; exit status 1 if not
  version         print the version
  help            print this

Settings, as flag or environment variable. A flag wins over the variable. A secret has no flag; instead of its variable,
the same name with _FILE can name a file that holds it, several one a line.

`)
	for _, s := range p.settings() {
		names := "--" + s.flag() + ", " + s.name
		if s.secret {
			names = s.name + ", " + s.name + "_FILE"
		}
		fmt.Fprintf(&b, "  %s (default: %s)\n        %s\n", names, s.fallback, s.meaning)
	}
	b.WriteString("\nExit status: 0 done, 1 failed, 2 wrong command line or settings; 130 or 143 when a second signal cut the end short.")
	return p.print(b.String())
}

// version is what the go command stamped into the binary: a tag, or a commit and its time.
func version() string {
	v := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
	}
	return fmt.Sprintf("depot %s %s %s/%s", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// didYouMean names the known word that shares most of its beginning and end with the given one, if that is most of it.
func didYouMean(word string, known []string) string {
	best, most := "", len(word)*2/3
	for _, k := range known {
		begin, end := 0, 0
		for begin < min(len(word), len(k)) && word[begin] == k[begin] {
			begin++
		}
		for end < min(len(word), len(k))-begin && word[len(word)-1-end] == k[len(k)-1-end] {
			end++
		}
		if begin+end > most {
			best, most = k, begin+end
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}
