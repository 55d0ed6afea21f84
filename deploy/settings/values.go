package settings

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Text takes a value as it is.
func Text(target *string) func(string) error {
	return func(v string) error { *target = v; return nil }
}

// Lines takes a value for each line.
func Lines(target *[]string) func(string) error {
	return func(v string) error {
		*target = nil
		for line := range strings.SplitSeq(v, "\n") {
			*target = append(*target, strings.TrimSpace(line))
		}
		return nil
	}
}

// Parsed takes what parse makes of a value. It reports a bad one with advice, without repeating it: it may be a secret that was meant for another setting.
func Parsed[T any](target *T, parse func(string) (T, error), advice string) func(string) error {
	return func(v string) (err error) {
		if *target, err = parse(v); err != nil {
			return errors.New(advice)
		}
		return nil
	}
}

// Address is a host:port.
func Address(v string) (string, error) {
	_, port, err := net.SplitHostPort(v)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	return v, err
}

// Networks are addresses, or networks as 10.0.0.0/8, with commas between them.
func Networks(v string) (networks []netip.Prefix, err error) {
	for text := range strings.SplitSeq(v, ",") {
		text = strings.TrimSpace(text)
		network, err := netip.ParsePrefix(text)
		if err != nil {
			address, err := netip.ParseAddr(text)
			if err != nil || address.Zone() != "" {
				return nil, errors.New("neither")
			}
			network = netip.PrefixFrom(address, address.BitLen())
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// Size is a number of bytes, with KiB, MiB, GiB or TiB.
func Size(v string) (int64, error) {
	digits := strings.TrimRight(v, "BKMGTi")
	shift, known := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[v[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n < 1 || n > (1<<62)>>shift {
		return 0, errors.New("not a size")
	}
	return n << shift, nil
}

// Timeout is a duration of nothing or more.
func Timeout(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if d < 0 {
		err = errors.New("negative")
	}
	return d, err
}

// Lifetime is a duration of more than nothing.
func Lifetime(v string) (time.Duration, error) {
	d, err := Timeout(v)
	if d == 0 {
		err = errors.New("nothing")
	}
	return d, err
}

// Format is a form of log lines.
func Format(v string) (string, error) {
	if v != "text" && v != "json" {
		return "", errors.New("neither")
	}
	return v, nil
}

// Level is the least a log line must matter to be written.
func Level(v string) (l slog.Level, err error) {
	err = l.UnmarshalText([]byte(v))
	return l, err
}

// Logger writes log lines in a format; "" is text on a terminal and else json.
func Logger(w io.Writer, format string, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if f, ok := w.(*os.File); ok && format == "" {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
			format = "text"
		}
	}
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
