package contract

import (
	"net/http"
	"strings"
)

func keys() []statement {
	return []statement{
		{text: "a plus sign and %2B mean the same object, and every part is decoded once", check: encodings},
		{text: "namespace and name have up to 128 characters, the version up to 64", check: bounds},
		{text: "every allowed character can be in every part", check: characters},
		{text: "a bad key is 400 whatever the method, in whatever encoding, and says which rule it broke", check: badKeys},
		{text: "a namespace may be called upload, healthz or like any other path of an endpoint", check: pathlikeNames},
		{text: "neighbouring keys do not touch each other", check: neighbours},
	}
}

func encodings(c *check) {
	key, body := c.key("1.0.0+build.5.zip"), random(100)
	a := c.stored(key, body)
	c.says(a, "1.0.0+build.5.zip")
	for _, same := range []string{strings.Replace(key, "+", "%2B", 1), strings.Replace(key, "+", "%2b", 1), strings.Replace(key, ".zip", "%2Ezip", 1),
		strings.Replace(key, "contract", "%63ontract", 1)} {
		c.holds(same, body)
		again := c.is(c.put(same, body), "PUT "+same, http.StatusOK)
		c.has(again, header{"Location", a.Header.Get("Location")})
	}
	c.is(c.delete(strings.Replace(key, "+", "%2B", 1)), "DELETE by the other name", http.StatusNoContent)
	c.absent(key)
}

func bounds(c *check) {
	long := strings.Repeat("x", 128)
	longest := long + "/" + long + "/" + long[:64] + ".zip"
	c.used = append(c.used, longest)
	body := random(100)
	c.stored(longest, body)
	c.holds(longest, body)
	for _, key := range []string{long + "x/n/1.zip", "n/" + long + "x/1.zip", "n/n/" + long[:65] + ".zip"} {
		c.says(c.is(c.put(key, body), "too long", http.StatusBadRequest), "longer than")
	}
}

func characters(c *check) {
	const all = "Az09_.+-~@x"
	key, body := all+"/"+all+"/"+all+".zip", random(100)
	c.used = append(c.used, key)
	c.stored(key, body)
	c.holds(key, body)
}

func badKeys(c *check) {
	for key, rule := range map[string]string{
		"ns/name/1.0.0": ".zip", "ns/name/1.0.0.tar": ".zip", "ns/name/1.0.0.ZIP": ".zip", "ns/1.0.0.zip": "parts", "1.0.0.zip": "parts", "": "parts",
		"a/b/c/1.0.0.zip": "parts", "ns/name/1.0.0.zip/": "parts", "/ns/name/1.0.0.zip": "parts", "ns//1.0.0.zip": "name is empty", "ns/name/.zip": "version is empty",
		"%2e%2e/name/1.zip": "begins with a dot", "ns/%2E%2E/1.zip": "begins with a dot", "ns/name/%2e.zip": "begins with a dot", "ns/name/..zip": "begins with a dot",
		".depot/name/1.zip": "begins with a dot", "%2Edepot/staging/1.zip": "begins with a dot", "ns/name/1..zip": "ends with a dot", "ns./name/1.zip": "ends with a dot",
		"n%2Fs/name/1.zip": "character", "ns/name/..%2f..%2fx.zip": "begins with a dot", "ns/name/a%2f..%2fx.zip": "character", "ns%5Cname/x/1.zip": "character",
		"n%252Fs/name/1.zip": "character", "%252e%252e/name/1.zip": "character", "ns/na%20me/1.zip": "character", "ns/na%00me/1.zip": "character", "ns/na%0d%0ame/1.zip": "character",
		"ns/na%C3%A9me/1.zip": "character", "ns/na%FFme/1.zip": "character", "ns/na%22me/1.zip": "character", "ns/na;me/1.zip": "character", "ns/na:me/1.zip": "character",
		"ns/name/1.zip%3Ftoken=x.zip": "character", "ns/na*me/1.zip": "character", "ns/na$me/1.zip": "character", "ns/na,me/1.zip": "character",
	} {
		c.says(c.is(c.put(key, random(10)), "PUT "+key, http.StatusBadRequest), rule)
		c.says(c.is(c.download(http.MethodGet, key), "GET "+key, http.StatusBadRequest), rule)
		c.is(c.download(http.MethodHead, key), "HEAD "+key, http.StatusBadRequest)
		c.says(c.is(c.delete(key), "DELETE "+key, http.StatusBadRequest), rule)
	}
}

func pathlikeNames(c *check) {
	for _, namespace := range []string{"upload", "download", "healthz", "readyz", "metrics", "files", "api"} {
		key, body := c.keyIn(namespace, "1.0.0.zip"), random(100)
		c.stored(key, body)
		c.holds(key, body)
		c.is(c.delete(key), "DELETE "+key, http.StatusNoContent)
	}
}

func neighbours(c *check) {
	base := strings.TrimSuffix(c.key("x"), "x")
	bodies := map[string][]byte{}
	for _, file := range []string{"1.zip", "1.0.zip", "1.0-rc.1.zip", "1.0+b.zip", "1.0.zip.zip", "10.zip"} {
		c.used = append(c.used, base+file)
		bodies[base+file] = random(100)
		c.stored(base+file, bodies[base+file])
	}
	c.is(c.delete(base+"1.0.zip"), "DELETE", http.StatusNoContent)
	delete(bodies, base+"1.0.zip")
	for key, body := range bodies {
		c.holds(key, body)
	}
}
