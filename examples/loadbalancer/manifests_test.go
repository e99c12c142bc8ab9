package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// variables are what serve reads from the environment.
var variables = []string{"ADDR", "REDIS", "GRACE", "RETENTION"}

// The compose file is valid, and the addresses that the proxies' files have are those of
// its nodes.
func TestCompose(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"compose.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	nodes := 0
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			if _, err := os.Stat(volume.Source); volume.Type == types.VolumeTypeBind && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if service.Build == nil {
			continue
		}
		nodes++
		if _, err := os.Stat(service.Build.Context + "/" + service.Build.Dockerfile); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		addr := service.Networks["default"].Ipv4Address + ":8080"
		for _, file := range []string{"nginx.conf", "haproxy.cfg"} {
			if strings.Count(read(t, file), addr) != 1 {
				t.Errorf("%s has not one %s, which is %s", file, addr, name)
			}
		}
		for variable := range service.Environment {
			if !slices.Contains(variables, variable) {
				t.Errorf("%s sets %s, which no node reads", name, variable)
			}
		}
		redis, _, _ := strings.Cut(*service.Environment["REDIS"], ":")
		if _, err := project.GetService(redis); err != nil {
			t.Errorf("%s: REDIS: %v", name, err)
		}
		if grace := parse(t, *service.Environment["GRACE"]); time.Duration(*service.StopGracePeriod) <= grace {
			t.Errorf("%s is killed after %v, and needs %v", name, service.StopGracePeriod, grace)
		}
	}
	if nodes != 3 {
		t.Errorf("%d nodes", nodes)
	}
}

func parse(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// manifests are the objects of kubernetes.yaml, by name.
type manifests struct {
	deployments map[string]appsv1.Deployment
	services    map[string]corev1.Service
	budget      policyv1.PodDisruptionBudget
	ingress     networkingv1.Ingress
}

// kubernetes reads kubernetes.yaml. It takes no field that Kubernetes does not have.
func kubernetes(t *testing.T) manifests {
	t.Helper()
	m := manifests{map[string]appsv1.Deployment{}, map[string]corev1.Service{}, policyv1.PodDisruptionBudget{}, networkingv1.Ingress{}}
	for document := range bytes.SplitSeq([]byte(read(t, "kubernetes.yaml")), []byte("\n---\n")) {
		var kind struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(document, &kind); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind.APIVersion + " " + kind.Kind {
		case "apps/v1 Deployment":
			var d appsv1.Deployment
			err = yaml.UnmarshalStrict(document, &d)
			m.deployments[d.Name] = d
		case "v1 Service":
			var s corev1.Service
			err = yaml.UnmarshalStrict(document, &s)
			m.services[s.Name] = s
		case "policy/v1 PodDisruptionBudget":
			err = yaml.UnmarshalStrict(document, &m.budget)
		case "networking.k8s.io/v1 Ingress":
			err = yaml.UnmarshalStrict(document, &m.ingress)
		default:
			t.Errorf("what is a %s %s?", kind.APIVersion, kind.Kind)
		}
		if err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
	}
	return m
}

// The manifests are Kubernetes', fit to each other, and to the program.
func TestKubernetes(t *testing.T) {
	m := kubernetes(t)
	pod := m.deployments["herald"].Spec.Template
	for name, d := range m.deployments {
		service := m.services[name].Spec
		labels := d.Spec.Template.Labels
		for what, selector := range map[string]map[string]string{
			"the Deployment": d.Spec.Selector.MatchLabels, "the Service": service.Selector,
		} {
			if selector["app"] == "" || selector["app"] != labels["app"] {
				t.Errorf("%s: %s selects %v, and the pods are %v", name, what, selector, labels)
			}
		}
		ports := d.Spec.Template.Spec.Containers[0].Ports
		if target := service.Ports[0].TargetPort.StrVal; target != ports[0].Name {
			t.Errorf("%s: the Service leads to the port %q, and the pods have %q", name, target, ports[0].Name)
		}
	}
	if m.budget.Spec.Selector.MatchLabels["app"] != pod.Labels["app"] {
		t.Error("the PodDisruptionBudget is about other pods")
	}
	if spread := pod.Spec.TopologySpreadConstraints[0]; spread.LabelSelector.MatchLabels["app"] != pod.Labels["app"] {
		t.Error("the pods are spread by others")
	}
	path := m.ingress.Spec.Rules[0].HTTP.Paths[0]
	if service := m.services[path.Backend.Service.Name]; len(service.Spec.Ports) == 0 || service.Spec.Ports[0].Name != path.Backend.Service.Port.Name {
		t.Error("the Ingress leads to no port of a Service")
	}
	container := pod.Spec.Containers[0]
	probe := container.ReadinessProbe.HTTPGet
	program := read(t, "main.go")
	if !strings.Contains(program, `"GET `+probe.Path+`"`) || probe.Port.StrVal != container.Ports[0].Name {
		t.Errorf("the probe asks for %s on the port %s", probe.Path, probe.Port.StrVal)
	}
	if !strings.Contains(program, `"GET `+path.Path+`{$}"`) {
		t.Errorf("the program has nothing at %s", path.Path)
	}
	grace := time.Duration(0)
	for _, variable := range container.Env {
		switch variable.Name {
		case "GRACE":
			grace = parse(t, variable.Value)
		case "REDIS":
			redis, _, _ := strings.Cut(variable.Value, ":")
			if _, ok := m.services[redis]; !ok {
				t.Errorf("REDIS is %s, which is no Service", variable.Value)
			}
		}
		if !slices.Contains(variables, variable.Name) {
			t.Errorf("%s is set, and no node reads it", variable.Name)
		}
	}
	needs := grace + time.Duration(container.Lifecycle.PreStop.Sleep.Seconds)*time.Second
	if has := time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second; grace == 0 || has <= needs {
		t.Errorf("a pod is killed after %v, and needs %v", has, needs)
	}
}

// The program reads each variable that the manifests may set.
func TestVariables(t *testing.T) {
	var reads []string
	for _, m := range regexp.MustCompile(`(?:Getenv|duration)\("([A-Z]+)"`).FindAllStringSubmatch(read(t, "main.go"), -1) {
		reads = append(reads, m[1])
	}
	slices.Sort(reads)
	want := slices.Sorted(slices.Values(variables))
	if !slices.Equal(reads, want) {
		t.Errorf("the program reads %v, and the test thinks %v", reads, want)
	}
}

// The Dockerfile builds this directory, with the Go of go.mod, and what it builds needs no
// C, for there is nothing else in its image. (To build it here too would take minutes.)
func TestDockerfile(t *testing.T) {
	file := read(t, "Dockerfile")
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	if !strings.Contains(file, "FROM golang:"+version+" ") {
		t.Errorf("the Dockerfile builds with another Go than %s", version)
	}
	command := regexp.MustCompile(`(?m)^RUN (.*)go build -trimpath -o /node \.$`).FindStringSubmatch(file)
	if command == nil {
		t.Fatal("the Dockerfile builds no /node")
	}
	list := exec.Command("sh", "-c", command[1]+"go list -deps -f '{{if .CgoFiles}}{{.ImportPath}}{{end}}' . && pwd")
	list.Dir = "../.."
	out, err := list.CombinedOutput()
	if here, _ := os.Getwd(); err != nil || strings.TrimSpace(string(out)) != here {
		t.Errorf("%v: %s, want nothing but %s", err, out, here)
	}
}
