package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// volumeKinds has a volume of every kind that the API knows.
var volumeKinds = map[string]corev1.VolumeSource{
	"HostPath":              {HostPath: &corev1.HostPathVolumeSource{Path: "/run"}},
	"EmptyDir":              {EmptyDir: &corev1.EmptyDirVolumeSource{}},
	"GCEPersistentDisk":     {GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: "d"}},
	"AWSElasticBlockStore":  {AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "v"}},
	"GitRepo":               {GitRepo: &corev1.GitRepoVolumeSource{Repository: "r"}},
	"Secret":                {Secret: &corev1.SecretVolumeSource{SecretName: "s"}},
	"NFS":                   {NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}},
	"ISCSI":                 {ISCSI: &corev1.ISCSIVolumeSource{TargetPortal: "10.0.0.1:3260", IQN: "iqn.2001-04.com.example:x"}},
	"Glusterfs":             {Glusterfs: &corev1.GlusterfsVolumeSource{EndpointsName: "e", Path: "p"}},
	"PersistentVolumeClaim": {PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}},
	"RBD":                   {RBD: &corev1.RBDVolumeSource{CephMonitors: []string{"m"}, RBDImage: "i"}},
	"FlexVolume":            {FlexVolume: &corev1.FlexVolumeSource{Driver: "example.com/d"}},
	"Cinder":                {Cinder: &corev1.CinderVolumeSource{VolumeID: "v"}},
	"CephFS":                {CephFS: &corev1.CephFSVolumeSource{Monitors: []string{"m"}}},
	"Flocker":               {Flocker: &corev1.FlockerVolumeSource{DatasetName: "d"}},
	"DownwardAPI":           {DownwardAPI: &corev1.DownwardAPIVolumeSource{}},
	"FC":                    {FC: &corev1.FCVolumeSource{TargetWWNs: []string{"w"}, Lun: ptr(int32(0))}},
	"AzureFile":             {AzureFile: &corev1.AzureFileVolumeSource{SecretName: "s", ShareName: "s"}},
	"ConfigMap":             {ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}},
	"VsphereVolume":         {VsphereVolume: &corev1.VsphereVirtualDiskVolumeSource{VolumePath: "p"}},
	"Quobyte":               {Quobyte: &corev1.QuobyteVolumeSource{Registry: "r:1", Volume: "v"}},
	"AzureDisk":             {AzureDisk: &corev1.AzureDiskVolumeSource{DiskName: "d", DataDiskURI: "https://blob/d.vhd"}},
	"PhotonPersistentDisk":  {PhotonPersistentDisk: &corev1.PhotonPersistentDiskVolumeSource{PdID: "d"}},
	"Projected":             {Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}}}},
	"PortworxVolume":        {PortworxVolume: &corev1.PortworxVolumeSource{VolumeID: "v"}},
	"ScaleIO":               {ScaleIO: &corev1.ScaleIOVolumeSource{Gateway: "g", System: "s", VolumeName: "v", SecretRef: &corev1.LocalObjectReference{Name: "s"}}},
	"StorageOS":             {StorageOS: &corev1.StorageOSVolumeSource{VolumeName: "v", VolumeNamespace: "n"}},
	"CSI":                   {CSI: &corev1.CSIVolumeSource{Driver: "example.com"}},
	"Ephemeral": {Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Mi")}}}}}},
	"Image": {Image: &corev1.ImageVolumeSource{Reference: "example.com/i:1"}},
}

// harmless are the kinds that a hermetic pod may have: the issue is not whether they
// are useful, but that neither a network nor the node is behind them.
var harmless = []string{"ConfigMap", "Secret", "DownwardAPI", "Projected", "EmptyDir", "Ephemeral", "PersistentVolumeClaim", "Image"}

// capabilities are all that the kernel has.
var capabilities = map[string]int{
	"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"FOWNER": unix.CAP_FOWNER, "FSETID": unix.CAP_FSETID, "KILL": unix.CAP_KILL, "SETGID": unix.CAP_SETGID,
	"SETUID": unix.CAP_SETUID, "SETPCAP": unix.CAP_SETPCAP, "LINUX_IMMUTABLE": unix.CAP_LINUX_IMMUTABLE,
	"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "NET_BROADCAST": unix.CAP_NET_BROADCAST,
	"NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW, "IPC_LOCK": unix.CAP_IPC_LOCK,
	"IPC_OWNER": unix.CAP_IPC_OWNER, "SYS_MODULE": unix.CAP_SYS_MODULE, "SYS_RAWIO": unix.CAP_SYS_RAWIO,
	"SYS_CHROOT": unix.CAP_SYS_CHROOT, "SYS_PTRACE": unix.CAP_SYS_PTRACE, "SYS_PACCT": unix.CAP_SYS_PACCT,
	"SYS_ADMIN": unix.CAP_SYS_ADMIN, "SYS_BOOT": unix.CAP_SYS_BOOT, "SYS_NICE": unix.CAP_SYS_NICE,
	"SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "SYS_TIME": unix.CAP_SYS_TIME, "SYS_TTY_CONFIG": unix.CAP_SYS_TTY_CONFIG,
	"MKNOD": unix.CAP_MKNOD, "LEASE": unix.CAP_LEASE, "AUDIT_WRITE": unix.CAP_AUDIT_WRITE,
	"AUDIT_CONTROL": unix.CAP_AUDIT_CONTROL, "SETFCAP": unix.CAP_SETFCAP, "MAC_OVERRIDE": unix.CAP_MAC_OVERRIDE,
	"MAC_ADMIN": unix.CAP_MAC_ADMIN, "SYSLOG": unix.CAP_SYSLOG, "WAKE_ALARM": unix.CAP_WAKE_ALARM,
	"BLOCK_SUSPEND": unix.CAP_BLOCK_SUSPEND, "AUDIT_READ": unix.CAP_AUDIT_READ, "PERFMON": unix.CAP_PERFMON,
	"BPF": unix.CAP_BPF, "CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
}

// mayHave are those of Pod Security "baseline" and two more.
var mayHave = []string{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "NET_RAW", "SYS_PTRACE"}

// field is one thing that a pod can say, as an edit of the pod and of one container
// in it. With a rule it is refused, by the words of that rule.
type field struct {
	name string
	edit func(*corev1.Pod, *corev1.Container)
	rule string
}

const (
	ofVolumes  = "they can hold the node's sockets"
	ofCapables = "are known to make and enter no network"
)

// fields are what the property below makes pods from: every kind of volume, every
// capability, and every field of the types in judged. A field of the API that is not
// here fails TestFieldsKnown.
func fields() []field {
	var all []field
	for kind, source := range volumeKinds {
		rule := ofVolumes
		if slices.Contains(harmless, kind) {
			rule = ""
		}
		all = append(all, field{"VolumeSource." + kind, func(p *corev1.Pod, _ *corev1.Container) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: strings.ToLower(kind), VolumeSource: source})
		}, rule})
	}
	for name := range capabilities {
		rule := ofCapables
		if slices.Contains(mayHave, name) {
			rule = ""
		}
		all = append(all, field{"capability " + name, func(_ *corev1.Pod, c *corev1.Container) {
			s := security(c)
			if s.Capabilities == nil {
				s.Capabilities = &corev1.Capabilities{}
			}
			s.Capabilities.Add = append(s.Capabilities.Add, corev1.Capability(name))
		}, rule})
	}
	for name, values := range judged {
		for _, f := range values {
			f.name = name
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b field) int { return strings.Compare(a.name+a.rule, b.name+b.rule) })
	return all
}

func security(c *corev1.Container) *corev1.SecurityContext {
	if c.SecurityContext == nil {
		c.SecurityContext = &corev1.SecurityContext{}
	}
	return c.SecurityContext
}

func projected(source corev1.VolumeProjection) func(*corev1.Pod, *corev1.Container) {
	return func(p *corev1.Pod, _ *corev1.Container) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprint("projected", len(p.Spec.Volumes)),
			VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{source}}}})
	}
}

// inPod is an edit of the pod's security context, inContainer one of a container's.
func inPod(edit func(*corev1.PodSecurityContext)) func(*corev1.Pod, *corev1.Container) {
	return func(p *corev1.Pod, _ *corev1.Container) { edit(p.Spec.SecurityContext) }
}

func inContainer(edit func(*corev1.SecurityContext)) func(*corev1.Pod, *corev1.Container) {
	return func(_ *corev1.Pod, c *corev1.Container) { edit(security(c)) }
}

// judged has, for every field of these types that is not unjudged, values that are
// refused and values that are not.
var judged = map[string][]field{
	"PodSpec.HostNetwork": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) { p.Spec.HostNetwork = true }, rule: "hostNetwork: true"}},
	"PodSpec.HostPID": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) { p.Spec.HostPID = true }, rule: "hostPID: true"}},
	"PodSpec.HostIPC": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) { p.Spec.HostIPC = true }, rule: "hostIPC: true"}},
	"PodSpec.HostUsers": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) { p.Spec.HostUsers = ptr(false) }},
		{edit: func(p *corev1.Pod, _ *corev1.Container) { p.Spec.HostUsers = ptr(true) }}},
	"PodSpec.ShareProcessNamespace": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) { p.Spec.ShareProcessNamespace = ptr(true) }}},
	"PodSpec.ResourceClaims": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) { claim(p) }, rule: "resourceClaims can"}},
	"PodSpec.DNSPolicy": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) { p.Spec.DNSPolicy = corev1.DNSDefault }, rule: "no DNS server"}},
	"PodSpec.EnableServiceLinks": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) { p.Spec.EnableServiceLinks = ptr(true) }, rule: "service links"}},
	"PodSpec.AutomountServiceAccountToken": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) { p.Spec.AutomountServiceAccountToken = ptr(true) }, rule: "its token"}},
	"PodSpec.HostAliases": {
		{edit: func(p *corev1.Pod, _ *corev1.Container) {
			p.Spec.HostAliases = []corev1.HostAlias{{IP: "10.0.0.1", Hostnames: []string{"far"}}}
		}}},

	"PodSecurityContext.SELinuxOptions":     {{edit: inPod(func(s *corev1.PodSecurityContext) { s.SELinuxOptions = &corev1.SELinuxOptions{Type: "spc_t"} })}},
	"PodSecurityContext.WindowsOptions":     {{edit: inPod(func(s *corev1.PodSecurityContext) { s.WindowsOptions = &corev1.WindowsSecurityContextOptions{} }), rule: "windowsOptions:"}},
	"PodSecurityContext.RunAsUser":          {{edit: inPod(func(s *corev1.PodSecurityContext) { s.RunAsUser = ptr(int64(0)) })}},
	"PodSecurityContext.RunAsGroup":         {{edit: inPod(func(s *corev1.PodSecurityContext) { s.RunAsGroup = ptr(int64(0)) })}},
	"PodSecurityContext.RunAsNonRoot":       {{edit: inPod(func(s *corev1.PodSecurityContext) { s.RunAsNonRoot = ptr(false) })}},
	"PodSecurityContext.SupplementalGroups": {{edit: inPod(func(s *corev1.PodSecurityContext) { s.SupplementalGroups = []int64{0} })}},
	"PodSecurityContext.SupplementalGroupsPolicy": {{edit: inPod(func(s *corev1.PodSecurityContext) {
		s.SupplementalGroupsPolicy = ptr(corev1.SupplementalGroupsPolicyMerge)
	})}},
	"PodSecurityContext.FSGroup":             {{edit: inPod(func(s *corev1.PodSecurityContext) { s.FSGroup = ptr(int64(0)) })}},
	"PodSecurityContext.FSGroupChangePolicy": {{edit: inPod(func(s *corev1.PodSecurityContext) { s.FSGroupChangePolicy = ptr(corev1.FSGroupChangeAlways) })}},
	"PodSecurityContext.Sysctls": {{edit: inPod(func(s *corev1.PodSecurityContext) {
		s.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.ip_forward", Value: "1"}}
	})}},
	"PodSecurityContext.AppArmorProfile": {{edit: inPod(func(s *corev1.PodSecurityContext) {
		s.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	})}},
	"PodSecurityContext.SELinuxChangePolicy": {{edit: inPod(func(s *corev1.PodSecurityContext) { s.SELinuxChangePolicy = ptr(corev1.SELinuxChangePolicyRecursive) })}},
	"PodSecurityContext.SeccompProfile": {
		{edit: inPod(func(s *corev1.PodSecurityContext) { s.SeccompProfile = nil }), rule: "seccompProfile:"},
		{edit: inPod(func(s *corev1.PodSecurityContext) {
			s.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
		}), rule: "seccompProfile:"},
		{edit: inPod(func(s *corev1.PodSecurityContext) {
			s.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("airgap.json")}
		})}},

	"SecurityContext.Capabilities": {{edit: inContainer(func(s *corev1.SecurityContext) {
		s.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	})}},
	"SecurityContext.Privileged":               {{edit: inContainer(func(s *corev1.SecurityContext) { s.Privileged = ptr(true) }), rule: "privileged: true"}},
	"SecurityContext.SELinuxOptions":           {{edit: inContainer(func(s *corev1.SecurityContext) { s.SELinuxOptions = &corev1.SELinuxOptions{Type: "spc_t"} })}},
	"SecurityContext.WindowsOptions":           {{edit: inContainer(func(s *corev1.SecurityContext) { s.WindowsOptions = &corev1.WindowsSecurityContextOptions{} }), rule: "windowsOptions:"}},
	"SecurityContext.RunAsUser":                {{edit: inContainer(func(s *corev1.SecurityContext) { s.RunAsUser = ptr(int64(0)) })}},
	"SecurityContext.RunAsGroup":               {{edit: inContainer(func(s *corev1.SecurityContext) { s.RunAsGroup = ptr(int64(0)) })}},
	"SecurityContext.RunAsNonRoot":             {{edit: inContainer(func(s *corev1.SecurityContext) { s.RunAsNonRoot = ptr(false) })}},
	"SecurityContext.ReadOnlyRootFilesystem":   {{edit: inContainer(func(s *corev1.SecurityContext) { s.ReadOnlyRootFilesystem = ptr(false) })}},
	"SecurityContext.AllowPrivilegeEscalation": {{edit: inContainer(func(s *corev1.SecurityContext) { s.AllowPrivilegeEscalation = ptr(true) })}},
	"SecurityContext.AppArmorProfile": {{edit: inContainer(func(s *corev1.SecurityContext) {
		s.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	})}},
	"SecurityContext.ProcMount": {
		{edit: func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.HostUsers = ptr(false) // the API wants that
			security(c).ProcMount = ptr(corev1.UnmaskedProcMount)
		}, rule: "procMount: Unmasked"},
		{edit: inContainer(func(s *corev1.SecurityContext) { s.ProcMount = ptr(corev1.DefaultProcMount) })}},
	"SecurityContext.SeccompProfile": {
		{edit: inContainer(func(s *corev1.SecurityContext) {
			s.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
		}), rule: "seccompProfile:"},
		{edit: inContainer(func(s *corev1.SecurityContext) {
			s.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
		})}},

	"VolumeProjection.Secret":              {{edit: projected(corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}})}},
	"VolumeProjection.ConfigMap":           {{edit: projected(corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}})}},
	"VolumeProjection.DownwardAPI":         {{edit: projected(corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{}})}},
	"VolumeProjection.ServiceAccountToken": {{edit: projected(corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t"}}), rule: "projected volumes with"}},
	"VolumeProjection.ClusterTrustBundle":  {{edit: projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr("b"), Path: "b"}})}},
	"VolumeProjection.PodCertificate":      {{edit: projected(corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ED25519", CredentialBundlePath: "c"}}), rule: "projected volumes with"}},

	"Container.Ports": {
		{edit: func(_ *corev1.Pod, c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
		}, rule: "hostPort:"},
		{edit: func(_ *corev1.Pod, c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: 80}} }}},
	"Container.Resources": {
		{edit: func(_ *corev1.Pod, c *corev1.Container) {
			c.Resources.Limits = corev1.ResourceList{"example.com/nic": resource.MustParse("1")}
		}, rule: "an extended resource can be"},
		{edit: func(_ *corev1.Pod, c *corev1.Container) {
			c.Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")}
		}}},
	"Container.LivenessProbe":  probes(func(c *corev1.Container, p *corev1.Probe) { c.LivenessProbe = p }),
	"Container.ReadinessProbe": probes(func(c *corev1.Container, p *corev1.Probe) { c.ReadinessProbe = p }),
	"Container.StartupProbe":   probes(func(c *corev1.Container, p *corev1.Probe) { c.StartupProbe = p }),
	"Container.Lifecycle": {
		{edit: func(_ *corev1.Pod, c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}}
		}, rule: "lifecycle hooks"},
		{edit: func(_ *corev1.Pod, c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		}}},
}

// probes are one of each handler.
func probes(set func(*corev1.Container, *corev1.Probe)) (all []field) {
	handlers := reflect.TypeFor[corev1.ProbeHandler]()
	for i := range handlers.NumField() {
		rule := "probes are sent"
		if handlers.Field(i).Name == "Exec" {
			rule = ""
		}
		all = append(all, field{edit: func(_ *corev1.Pod, c *corev1.Container) {
			p := &corev1.Probe{}
			h := reflect.ValueOf(&p.ProbeHandler).Elem().Field(i)
			h.Set(reflect.New(h.Type().Elem()))
			switch h := h.Interface().(type) {
			case *corev1.ExecAction:
				h.Command = []string{"true"}
			case *corev1.HTTPGetAction:
				h.Port = intstr.FromInt32(80)
			case *corev1.TCPSocketAction:
				h.Port = intstr.FromInt32(80)
			case *corev1.GRPCAction:
				h.Port = 80
			}
			set(c, p)
		}, rule: rule})
	}
	return all
}

// unjudged are the fields in which no rule is interested, and why.
var unjudged = map[string]string{
	"PodSpec.Volumes":                       "VolumeSource",
	"PodSpec.InitContainers":                "Container",
	"PodSpec.Containers":                    "Container",
	"PodSpec.EphemeralContainers":           "the API lets them come later only: testContainers",
	"PodSpec.SecurityContext":               "PodSecurityContext",
	"PodSpec.RuntimeClassName":              "it is what makes the pod hermetic",
	"PodSpec.DNSConfig":                     "judged together with DNSPolicy: testPods",
	"PodSpec.RestartPolicy":                 "when it runs, not where to",
	"PodSpec.TerminationGracePeriodSeconds": "when it runs",
	"PodSpec.ActiveDeadlineSeconds":         "when it runs",
	"PodSpec.NodeSelector":                  "where it runs: each node either has the handler or refuses the pod",
	"PodSpec.NodeName":                      "where it runs",
	"PodSpec.Affinity":                      "where it runs",
	"PodSpec.SchedulerName":                 "where it runs",
	"PodSpec.Tolerations":                   "where it runs",
	"PodSpec.TopologySpreadConstraints":     "where it runs",
	"PodSpec.SchedulingGates":               "when it runs",
	"PodSpec.PriorityClassName":             "when it runs",
	"PodSpec.Priority":                      "when it runs",
	"PodSpec.PreemptionPolicy":              "when it runs",
	"PodSpec.ReadinessGates":                "what is said of it",
	"PodSpec.ServiceAccountName":            "its token is judged",
	"PodSpec.DeprecatedServiceAccount":      "its token is judged",
	"PodSpec.ImagePullSecrets":              "the node pulls images",
	"PodSpec.Hostname":                      "a name",
	"PodSpec.HostnameOverride":              "a name",
	"PodSpec.Subdomain":                     "a name",
	"PodSpec.SetHostnameAsFQDN":             "a name",
	"PodSpec.Overhead":                      "set by the RuntimeClass",
	"PodSpec.OS":                            "a node of the other system refuses it",
	"PodSpec.Resources":                     "the API lets it have cpu, memory and hugepages only",

	"Container.SecurityContext":          "SecurityContext",
	"Container.Name":                     "what runs",
	"Container.Image":                    "what runs",
	"Container.Command":                  "what runs",
	"Container.Args":                     "what runs",
	"Container.WorkingDir":               "what runs",
	"Container.EnvFrom":                  "what runs",
	"Container.Env":                      "what runs",
	"Container.ResizePolicy":             "when it runs",
	"Container.RestartPolicy":            "when it runs",
	"Container.RestartPolicyRules":       "when it runs",
	"Container.VolumeMounts":             "the volumes are judged",
	"Container.VolumeDevices":            "of a persistentVolumeClaim",
	"Container.TerminationMessagePath":   "what is said of it",
	"Container.TerminationMessagePolicy": "what is said of it",
	"Container.ImagePullPolicy":          "the node pulls images",
	"Container.Stdin":                    "what is attached to it: the rule no-exec",
	"Container.StdinOnce":                "what is attached to it",
	"Container.TTY":                      "what is attached to it",
}

// TestFieldsKnown wants every field of the API to be accounted for: one that is new
// with the next version of k8s.io/api has to be thought about.
func TestFieldsKnown(t *testing.T) {
	known := map[string]bool{}
	for kind := range volumeKinds {
		known["VolumeSource."+kind] = true
	}
	for name := range judged {
		known[name] = true
	}
	for name := range unjudged {
		known[name] = true
	}
	for _, of := range []reflect.Type{
		reflect.TypeFor[corev1.PodSpec](), reflect.TypeFor[corev1.Container](), reflect.TypeFor[corev1.VolumeSource](),
		reflect.TypeFor[corev1.VolumeProjection](), reflect.TypeFor[corev1.SecurityContext](), reflect.TypeFor[corev1.PodSecurityContext](),
	} {
		for i := range of.NumField() {
			name := of.Name() + "." + of.Field(i).Name
			if !known[name] {
				t.Errorf("%s is neither judged nor unjudged", name)
			}
			delete(known, name)
		}
	}
	for name := range known {
		t.Errorf("the API has no %s", name)
	}
	numbers := map[int]bool{}
	for _, number := range capabilities {
		numbers[number] = true
	}
	if len(numbers) != len(capabilities) || len(numbers) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d capabilities with %d numbers, the kernel has %d", len(capabilities), len(numbers), unix.CAP_LAST_CAP+1)
	}
}

// testSchema wants the same of what the server itself says that a pod may have: it may
// be newer than the types above.
func (s *suite) testSchema(t *testing.T) {
	raw, err := s.Discovery().RESTClient().Get().AbsPath("/openapi/v3/api/v1").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Components struct {
			Schemas map[string]struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	for _, of := range []reflect.Type{
		reflect.TypeFor[corev1.PodSpec](), reflect.TypeFor[corev1.Container](), reflect.TypeFor[corev1.Volume](),
		reflect.TypeFor[corev1.VolumeProjection](), reflect.TypeFor[corev1.SecurityContext](), reflect.TypeFor[corev1.PodSecurityContext](),
		reflect.TypeFor[corev1.Probe](), reflect.TypeFor[corev1.LifecycleHandler](),
	} {
		known := map[string]bool{}
		for _, f := range reflect.VisibleFields(of) {
			known[strings.Split(f.Tag.Get("json"), ",")[0]] = true
		}
		properties := doc.Components.Schemas["io.k8s.api.core.v1."+of.Name()].Properties
		if len(properties) == 0 {
			t.Errorf("the server knows no %s", of.Name())
		}
		for field := range properties {
			if !known[field] && newer[of.Name()+"."+field] == "" {
				t.Errorf("%s.%s of the server is neither judged nor unjudged", of.Name(), field)
			}
		}
	}
}

// newer are fields that our k8s.io/api does not have yet, and why no rule is interested.
var newer = map[string]string{
	"PodSpec.schedulingGroup": "where it runs", // 1.36
}

// testFields says each thing once, in a container of every kind, in a hermetic pod and
// in one that is not, which is the control: there the API accepts it, so that it is the
// rule that refuses it.
func (s *suite) testFields(t *testing.T) {
	for _, f := range fields() {
		t.Run(f.name, func(t *testing.T) {
			for kind, pick := range kinds {
				edit := func(p *corev1.Pod) { f.edit(p, pick(p)) }
				got, err := s.tryCreate(t, s.ns, pod(edit))
				if apierrors.IsInvalid(err) || err == nil && len(got.Spec.Volumes) == 1 && got.Spec.Volumes[0].Projected != nil &&
					got.Spec.Volumes[0].Projected.Sources[0] == (corev1.VolumeProjection{}) {
					// This kind of container has no such field, or this server does not know it.
					s.unknown[f.name] = s.unknown[f.name] || err == nil
					continue
				}
				if err != nil {
					t.Errorf("a pod that is not hermetic, %s: %v", kind, err)
				}
				_, err = s.tryCreate(t, s.ns, pod(hermetic, edit))
				if f.rule != "" {
					s.wantRefused(t, err, "cni-none-hermetic-pods", f.rule)
				} else if err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
		})
	}
}
