// Package settings reads a program's settings from flags, the environment, and files that hold secrets. It knows how they
// are given; main.go has the table of what there is, and the packages that are configured say what is valid.
package settings

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"depot/auth/keyfile"
)

// prefix is what the names of all variables begin with.
const prefix = "DEPOT_"

// Setting is one row of a table. A flag wins over the environment, that over the default. A secret has no flag, but can come
// from the file that NAME_FILE names.
type Setting struct {
	Name    string             // of the variable; the flag is called like it
	Default string             // as it is given; with a space or "<" in it, as it is described: then Set is not called
	Meaning string             // for people
	Set     func(string) error // takes a value; its error says what to give instead, and repeats nothing
	secret  bool
}

// Plain is a setting that anyone may see.
func Plain(name, fallback, meaning string, set func(string) error) Setting {
	return Setting{name, fallback, meaning, set, false}
}

// Secret is a setting that nobody should: a command line is for all to read.
func Secret(name, fallback, meaning string, set func(string) error) Setting {
	return Setting{name, fallback, meaning, set, true}
}

// Table is all the settings of a program.
type Table []Setting

func (s Setting) flag() string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(s.Name, prefix), "_", "-"))
}

// Read reads flags and environment ("NAME=value") into the settings and returns everything that is wrong with them. own are
// flags of a command that are no settings, by name; where it begins with "true", a flag without a value.
func (t Table) Read(args, env []string, own map[string]*string) (wrong []string) {
	flags, wrong := t.readFlags(args, own)
	environment, known := map[string]string{}, []string{}
	for _, s := range t {
		if known = append(known, s.Name); s.secret {
			known = append(known, s.Name+"_FILE")
		}
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		environment[name] = value
		if strings.HasPrefix(name, prefix) && !slices.Contains(known, name) && !fromKubernetes(name) {
			wrong = append(wrong, name+": there is no such setting: unset it"+DidYouMean(name, known))
		}
	}
	for _, s := range t {
		if err := s.apply(flags, environment); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", s.Name, err))
		}
	}
	return wrong
}

// Only is the table with these settings, and their part of an environment.
func (t Table) Only(env []string, names ...string) (Table, []string) {
	other := func(name string) bool { return !slices.Contains(names, name) }
	return slices.DeleteFunc(slices.Clone(t), func(s Setting) bool { return other(s.Name) }), slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return other(name)
	})
}

// Load is Read, and then check, of those who are configured; what could not be read need not be checked.
func (t Table) Load(args, env []string, own map[string]*string, check func() error) (wrong []string) {
	wrong = t.Read(args, env, own)
	unread := len(wrong)
	for problem := range strings.SplitSeq(t.Spoken(check()), "\n") {
		name, _, _ := strings.Cut(problem, ":")
		if problem != "" && !slices.ContainsFunc(wrong[:unread], func(w string) bool { return strings.HasPrefix(w, name+":") }) {
			wrong = append(wrong, problem)
		}
	}
	return wrong
}

// readFlags reads the command line: what each setting's flag says, and what is wrong. It does not repeat an argument it
// cannot read, since that may be a secret. (Package flag would stop at the first bad one, and print it.)
func (t Table) readFlags(args []string, own map[string]*string) (flags map[string]string, wrong []string) {
	flags = map[string]string{}
	for i := 0; i < len(args); i++ {
		dashed := strings.HasPrefix(args[i], "-") && !strings.HasPrefix(args[i], "---")
		name, value, hasValue := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		at := slices.IndexFunc(t, func(s Setting) bool { return dashed && s.flag() == name })
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
		case at >= 0 && t[at].secret:
			wrong = append(wrong, fmt.Sprintf("argument %d: a secret has no flag: set %s or %s_FILE", i+1, t[at].Name, t[at].Name))
			continue
		case at >= 0 && !hasValue && t[at].Default == "false":
			value, hasValue = "true", true
		case at >= 0 && !hasValue && i+1 < len(args):
			i++
			value, hasValue = args[i], true
		}
		if at < 0 || !hasValue {
			wrong = append(wrong, fmt.Sprintf("argument %d is no flag of this command, or lacks its value: write --flag=value", i+1))
			continue
		}
		flags[t[at].Name] = value
	}
	return flags, wrong
}

func (s Setting) apply(flags, environment map[string]string) error {
	value, present := flags[s.Name]
	if !present {
		value, present = environment[s.Name]
	}
	if path, inFile := environment[s.Name+"_FILE"]; s.secret && inFile && !present {
		content, err := keyfile.Read(path)
		if err != nil {
			return fmt.Errorf("the file that %s_FILE names: %w: make it readable, or unset the variable", s.Name, err)
		}
		return s.Set(strings.TrimSpace(string(content)))
	}
	switch {
	case s.secret && present:
		return s.Set(strings.ReplaceAll(value, ",", "\n"))
	case present && strings.TrimSpace(value) == "":
		return errors.New("it is set but empty: give it a value or unset it")
	case present:
		return s.Set(value)
	case s.secret, strings.ContainsAny(s.Default, "< "): // described, not given: depends on what is not known yet
		return nil
	}
	return s.Set(s.Default)
}

// fromKubernetes reports whether Kubernetes sets this for a Service called depot.
func fromKubernetes(name string) bool {
	return name == "DEPOT_PORT" || strings.HasPrefix(name, "DEPOT_PORT_") || strings.HasPrefix(name, "DEPOT_SERVICE_")
}

// Spoken puts an error into the words of those who set variables: the packages speak of the fields of their Configs.
func (t Table) Spoken(err error) string {
	if err == nil {
		return ""
	}
	return regexp.MustCompile(`Config\.\w+`).ReplaceAllStringFunc(err.Error(), func(field string) string {
		name := strings.ReplaceAll(prefix, "_", "") + strings.ToUpper(strings.TrimPrefix(field, "Config."))
		at := slices.IndexFunc(t, func(s Setting) bool { return strings.ReplaceAll(s.Name, "_", "") == name })
		if at < 0 {
			return field // part of a path, say
		}
		return t[at].Name
	})
}

// Help lists the settings for people.
func (t Table) Help() string {
	var b strings.Builder
	for _, s := range t {
		names := "--" + s.flag() + ", " + s.Name
		if s.secret {
			names = s.Name + ", " + s.Name + "_FILE"
		}
		fmt.Fprintf(&b, "  %s (default: %s)\n        %s\n", names, s.Default, s.Meaning)
	}
	return b.String()
}

// DidYouMean names the known word that shares most of its beginning and end with the given one, if that is most of it.
func DidYouMean(word string, known []string) string {
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
