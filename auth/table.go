package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// Entries is how many tokens and issuers are known.
func (a *Authenticator) Entries() int {
	p := a.policy.Load()
	return len(p.tokens) + len(p.issuers)
}

// Table says who may do what, for people: a line for each token and issuer, without any secret.
func (a *Authenticator) Table() string {
	p := a.policy.Load()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) } // a strings.Builder does not fail
	if head := []string{"NAME", "MAY", "IN", "UNTIL", "IF"}; len(p.issuers) > 0 {
		row(head...)
	} else {
		row(head[:4]...)
	}
	identity := func(id Identity, until string) {
		for _, g := range id.grants {
			row(id.Name, g.actions.String(), join(g.namespaces[0]), until, "")
		}
	}
	if p.open != 0 {
		identity(p.anyone(), "")
	}
	for _, t := range p.tokens {
		until := ""
		if !t.expires.IsZero() {
			until = t.expires.UTC().Format("2006-01-02 15:04 MST")
		}
		identity(t.identity, until)
	}
	for _, i := range p.issuers {
		in := join(i.namespaces)
		if i.claim != "" {
			in = strings.TrimSuffix("the one in "+i.claim+", of "+in, ", of *")
		}
		until := "its exp"
		if i.maxTTL > 0 {
			until += fmt.Sprintf(", %s at most", inDays(i.maxTTL))
		}
		conditions := []string{"iss = " + i.url, "aud = " + i.audience}
		for _, name := range slices.Sorted(maps.Keys(i.require)) {
			want, _ := json.Marshal(i.require[name]) // of what TOML can hold: it does not fail
			conditions = append(conditions, name+" = "+string(want))
		}
		row(i.name+":<sub>", i.actions.String(), in, until, strings.Join(conditions, ", "))
	}
	_ = w.Flush()
	var text strings.Builder
	for line := range strings.Lines(b.String()) {
		text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return text.String()
}

func join(patterns []pattern) string {
	names := make([]string, len(patterns))
	for i, p := range patterns {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}

// ExplainFile is Explain for the token in a file and an action by its name; what is wrong with those two is the error.
func (a *Authenticator) ExplainFile(ctx context.Context, tokenFile, actionName, namespace string) (allowed bool, why string, err error) {
	action, err := ParseAction(actionName)
	if err != nil {
		return false, "", fmt.Errorf("--action: %w", err)
	}
	secret, err := os.ReadFile(tokenFile)
	if err != nil {
		return false, "", errors.New("--token-file: name a readable file with the token")
	}
	a.Refresh(ctx)
	allowed, why = a.Explain(ctx, strings.TrimSpace(string(secret)), action, namespace)
	return allowed, why, nil
}

// Explain says whether a token lets its holder do something in a namespace, and why or why not. It never repeats the token.
func (a *Authenticator) Explain(ctx context.Context, secret string, action Action, namespace string) (allowed bool, why string) {
	id, err := a.Authenticate(ctx, action, Credentials{Authorization: []string{"Bearer " + secret}})
	switch {
	case err != nil:
		return false, err.Error()
	case !id.May(action, namespace):
		return false, id.Refusal(action, namespace)
	}
	return true, fmt.Sprintf("%s may %s in %s", id.Name, action, namespace)
}

// Refusal says that someone may not do something in a namespace, what they may, and which claim of their token is the reason
// that it is no more. It is for them: it tells of nobody else's rights.
func (id Identity) Refusal(action Action, namespace string) string {
	text := fmt.Sprintf("%s may not %s in %s", id.Name, action, namespace)
	if id.Lacks != "" {
		return text + ": " + id.Lacks
	}
	for i, g := range id.grants {
		text += [...]string{": it may ", ", and "}[min(i, 1)] + g.actions.String() + " in "
		var lists []string
		for _, list := range g.namespaces {
			if names := join(list); names != "*" || len(g.namespaces) == 1 {
				lists = append(lists, names)
			}
		}
		text += strings.Join(lists, ", of these in ")
	}
	if len(text) > longestRefusal {
		text = text[:longestRefusal] + "..."
	}
	return text
}

const longestRefusal = 400 // bytes; a token can name thousands of namespaces
