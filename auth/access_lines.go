package auth

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Where something stands in the access file, and what may be said of it: an error names the line, and shows nothing that may be a
// secret in the wrong place.

var entryHeader = regexp.MustCompile(`^\s*\[\[\s*["']?(\w+)["']?\s*\]\]`)

// find notes the lines where entries begin.
func (r *reader) find(content []byte) {
	r.lines, r.headers = strings.Split(string(content), "\n"), map[string][]int{}
	for i, line := range r.lines {
		if match := entryHeader.FindStringSubmatch(line); match != nil {
			r.headers[match[1]] = append(r.headers[match[1]], i)
		}
	}
}

// enter goes on to the n-th entry of a kind.
func (r *reader) enter(kind string, n int) {
	if lines := r.headers[kind]; n < len(lines) { // else it is written in another way, and has the line of the one before
		r.first = lines[n]
	}
}

// fail adds a problem with a key of the entry, at its line, or at the entry's when the key is missing.
func (r *reader) fail(key, format string, args ...any) {
	line := r.first
	assignment := regexp.MustCompile(`^\s*["']?` + key + `["']?\s*=`)
	for i := r.first + 1; i < len(r.lines) && !strings.HasPrefix(strings.TrimSpace(r.lines[i]), "["); i++ {
		if assignment.MatchString(r.lines[i]) {
			line = i
		}
	}
	r.errs = append(r.errs, fmt.Errorf("%s:%d: %s", r.path, line+1, fmt.Sprintf(format, args...)))
}

// exactKeys refuses keys in another case: the decoder takes Allow for allow, so that one could stand beside the other.
func exactKeys(content []byte) error {
	var file map[string]any
	if err := toml.Unmarshal(content, &file); err != nil {
		return err
	}
	for kind, entries := range file {
		known := map[string]reflect.Type{"token": reflect.TypeFor[tokenEntry](), "issuer": reflect.TypeFor[issuerEntry]()}[kind]
		list, _ := entries.([]any)
		if known == nil {
			return fmt.Errorf("there is no such key as %s: keys are written in small letters", shown(kind))
		}
		names := map[string]bool{}
		for i := range known.NumField() {
			names[known.Field(i).Tag.Get("toml")] = true
		}
		for _, entry := range list {
			table, _ := entry.(map[string]any)
			for name := range table {
				if !names[name] {
					return fmt.Errorf("there is no such key as %s: keys are written in small letters", shown(kind+"."+name))
				}
			}
		}
	}
	return nil
}

// shown is a word of the file where it is one that people choose; else it may be a secret in the wrong place.
func shown(word string) string {
	if len(word) > 30 || strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.") != "" {
		return "the one here"
	}
	return strconv.Quote(word)
}

// tomlError says where a file is no TOML, or has a key that means nothing. It does not show the line: what is written there
// may be a token in the wrong place.
func tomlError(path string, err error) error {
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		var errs []error
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			errs = append(errs, fmt.Errorf("%s:%d: there is no such key as %s", path, line, shown(strings.Join(e.Key(), "."))))
		}
		return errors.Join(errs...)
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		return fmt.Errorf("%s:%d: this is not the TOML that belongs here (a text in quotes, a list in brackets, a date without)", path, line)
	}
	return fmt.Errorf("%s: %w", path, err)
}
