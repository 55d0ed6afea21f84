// Command check builds the kustomizations it is given and holds them against the Kubernetes API: every field must be one that its
// type has, and every pod must be as deploy/ promises. It is a module of its own, to keep these types out of depot's.
package main

import (
	"errors"
	"fmt"
	"maps"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// drain is what depot takes at the most to end, in seconds, and sleep what it is given before that.
const drain, sleep = 25, 5

func main() {
	failed := false
	for _, dir := range os.Args[1:] {
		kinds, err := check(dir)
		if err != nil {
			failed = true
			fmt.Fprintf(os.Stderr, "%s: %v\n", dir, err)
		}
		fmt.Printf("kubernetes: %s: %v\n", dir, kinds)
	}
	if failed {
		os.Exit(1)
	}
}

func check(dir string) (kinds map[string]int, err error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	kinds = map[string]int{}
	var errs []error
	labels, selectors := map[string]string{}, map[string]map[string]string{}
	for _, resource := range built.Resources() {
		kind := resource.GetKind()
		kinds[kind]++
		object := map[string]any{"Deployment": &appsv1.Deployment{}, "Service": &corev1.Service{}, "PersistentVolumeClaim": &corev1.PersistentVolumeClaim{},
			"PodDisruptionBudget": &policyv1.PodDisruptionBudget{}, "NetworkPolicy": &networkingv1.NetworkPolicy{}, "HorizontalPodAutoscaler": &autoscalingv2.HorizontalPodAutoscaler{}}[kind]
		if object == nil {
			errs = append(errs, fmt.Errorf("%s: a kind that is not checked", kind))
			continue
		}
		text, err := resource.AsYAML()
		if err == nil {
			err = yaml.UnmarshalStrict(text, object)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", kind, err))
		}
		if resource.GetNamespace() != "depot" {
			errs = append(errs, fmt.Errorf("%s: it is in the namespace %q", kind, resource.GetNamespace()))
		}
		switch o := object.(type) {
		case *appsv1.Deployment:
			errs = append(errs, pod(o.Spec.Template.Spec))
			labels = o.Spec.Template.Labels
			if selectors[kind] = nil; o.Spec.Selector != nil {
				selectors[kind] = o.Spec.Selector.MatchLabels
			}
		case *corev1.Service:
			selectors[kind] = o.Spec.Selector
		case *policyv1.PodDisruptionBudget:
			if selectors[kind] = nil; o.Spec.Selector != nil {
				selectors[kind] = o.Spec.Selector.MatchLabels
			}
		case *networkingv1.NetworkPolicy:
			selectors[kind] = o.Spec.PodSelector.MatchLabels
		}
	}
	for kind, selector := range selectors { // each has to find depot's pods, and only those
		if selector["app.kubernetes.io/name"] != "depot" || !maps.Equal(selector, labels) {
			errs = append(errs, fmt.Errorf("%s: its selector %v is not its pods' labels %v", kind, selector, labels))
		}
	}
	for _, kind := range []string{"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} {
		if kinds[kind] != 1 {
			errs = append(errs, fmt.Errorf("there are %d of %s", kinds[kind], kind))
		}
	}
	return kinds, errors.Join(errs...)
}

// pod holds a pod against the restricted Pod Security Standard, and what depot needs.
func pod(p corev1.PodSpec) error {
	var errs []error
	want := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("pod: "+what))
		}
	}
	no := func(b *bool) bool { return b != nil && !*b }
	yes := func(b *bool) bool { return b != nil && *b }
	want(no(p.EnableServiceLinks), "enableServiceLinks must be false")
	want(no(p.AutomountServiceAccountToken), "automountServiceAccountToken must be false")
	want(p.TerminationGracePeriodSeconds != nil && *p.TerminationGracePeriodSeconds > drain+sleep, "terminationGracePeriodSeconds must be longer than the drain")
	s := p.SecurityContext
	want(s != nil && yes(s.RunAsNonRoot) && s.RunAsUser != nil && *s.RunAsUser == 65532 && s.FSGroup != nil && s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "its security context is not restricted")
	want(len(p.Containers) == 1, "one container")
	volumes := map[string]bool{}
	for _, v := range p.Volumes {
		volumes[v.Name] = true
		want(v.HostPath == nil, "no hostPath")
	}
	for _, c := range p.Containers {
		s := c.SecurityContext
		want(s != nil && no(s.AllowPrivilegeEscalation) && yes(s.ReadOnlyRootFilesystem) && s.Capabilities != nil && len(s.Capabilities.Drop) == 1 && s.Capabilities.Drop[0] == "ALL" && len(s.Capabilities.Add) == 0, "its container's security context is not restricted")
		want(c.LivenessProbe != nil && c.ReadinessProbe != nil && c.StartupProbe != nil, "it needs three probes")
		want(c.Lifecycle != nil && c.Lifecycle.PreStop != nil && c.Lifecycle.PreStop.Sleep != nil && c.Lifecycle.PreStop.Sleep.Seconds == sleep, "it must sleep before it stops")
		want(!c.Resources.Requests.Cpu().IsZero() && !c.Resources.Limits.Memory().IsZero(), "it needs requests and limits")
		for _, m := range c.VolumeMounts {
			want(volumes[m.Name], "the volume "+m.Name+" is not there")
		}
		want(volumes["data"] && volumes["tokens"], "it needs the volumes data and tokens")
		for _, e := range c.Env {
			want(e.ValueFrom == nil, "secrets are files, and "+e.Name+" is a variable")
		}
	}
	return errors.Join(errs...)
}
