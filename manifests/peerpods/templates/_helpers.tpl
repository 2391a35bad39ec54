{{- define "peerpods.labels" -}}
app.kubernetes.io/name: peerpods
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of one component's pods, for ever: selectors cannot be changed. (list . "adaptor") */}}
{{- define "peerpods.selector" -}}
app.kubernetes.io/name: peerpods
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* (list . "adaptor") */}}
{{- define "peerpods.metadata" -}}
name: peerpods-{{ index . 1 }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "peerpods.labels" (index . 0) | nindent 2 }}
  app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Of something that belongs to no namespace, or has another name. */}}
{{- define "peerpods.clusterMetadata" -}}
name: {{ index . 1 }}
labels:
  {{- include "peerpods.labels" (index . 0) | nindent 2 }}
{{- end }}

{{/* (list . overriding-image) */}}
{{- define "peerpods.image" -}}
{{- $root := index . 0 }}
{{- $own := index . 1 }}
{{- $image := ternary $own $root.Values.image (or $own.repository $own.tag $own.digest | empty | not) }}
{{- $repository := $image.repository | default $root.Values.image.repository }}
{{- if not $repository }}{{ fail "image.repository must be given: the image that manifests/images/Containerfile makes, in a registry of yours" }}{{ end }}
{{- if $image.digest -}}
{{ $repository }}@{{ $image.digest }}
{{- else -}}
{{ $repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* What every pod has. (list . "adaptor" its-values config-matters) */}}
{{- define "peerpods.podMetadata" -}}
{{- $root := index . 0 }}
{{- $values := index . 2 }}
labels:
  {{- include "peerpods.labels" $root | nindent 2 }}
  app.kubernetes.io/component: {{ index . 1 }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ index . 1 }}
  {{- if index . 3 }}
  checksum/config: {{ include "peerpods.toml" $root | sha256sum }}
  {{- end }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Where it may run. (list its-values priority-class) */}}
{{- define "peerpods.placement" -}}
{{- with index . 0 }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "peerpods.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The cloud's credentials as environment. */}}
{{- define "peerpods.credentials" -}}
{{- $name := include "peerpods.credentialsName" . }}
{{- with $name }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "peerpods.credentialsName" -}}
{{- if and .Values.credentials.existingSecret .Values.credentials.values }}{{ fail "credentials.existingSecret and credentials.values are both given: which one counts?" }}{{ end }}
{{- if .Values.credentials.existingSecret }}{{ .Values.credentials.existingSecret }}
{{- else if .Values.credentials.values }}peerpods-credentials
{{- end }}
{{- end }}

{{/* Of a pod that needs nothing of its node. */}}
{{- define "peerpods.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "peerpods.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Spread over nodes. (list . "webhook") */}}
{{- define "peerpods.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "peerpods.selector" . | nindent 8 }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "peerpods.selector" . | nindent 8 }}
{{- end }}

{{/* The runtime classes as a CEL list. */}}
{{- define "peerpods.classes" -}}
[{{ range $i, $name := .Values.config.kubernetes.runtime_classes }}{{ if $i }}, {{ end }}'{{ $name }}'{{ end }}]
{{- end }}

{{/* CEL: is it a pod of ours? */}}
{{- define "peerpods.isOurs" -}}
has(object.spec.runtimeClassName) && object.spec.runtimeClassName in {{ include "peerpods.classes" . }}
{{- end }}

{{/* Namespaces whose pods are never ours. */}}
{{- define "peerpods.namespaceSelector" -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values:
      {{- toYaml (concat (list .Release.Namespace "kube-system") .Values.webhook.excludedNamespaces | uniq) | nindent 6 }}
{{- end }}

{{/* Whether pods of this cluster wait for room in [quota]. */}}
{{- define "peerpods.hasQuota" -}}
{{- $config := .Values.config }}
{{- if or (dig "quota" "cluster" "" $config) (dig "quota" "namespace" "" $config) (dig "webhook" "quota" false $config) }}true{{ end }}
{{- end }}

{{/* What contradicts itself, told before anything is made. */}}
{{- define "peerpods.check" -}}
{{- $config := .Values.config }}
{{- if not $config.cloud.provider }}{{ fail "config.cloud.provider must be given: aws, azure or gcp" }}{{ end }}
{{- if not $config.node.cluster }}{{ fail "config.node.cluster must be given: a name that marks this cluster's VMs in the cloud and differs from every other cluster's (a-z, 0-9, -)" }}{{ end }}
{{- if and (eq .Values.admission "policy") (semverCompare "<1.36.0-0" .Capabilities.KubeVersion.Version) }}{{ fail (printf "admission: policy needs Kubernetes 1.36 or later, where MutatingAdmissionPolicy is on; this is %s: use admission: webhook" .Capabilities.KubeVersion.Version) }}{{ end }}
{{- if and (ne .Values.admission "webhook") (include "peerpods.hasQuota" .) }}{{ fail "config.quota needs admission: webhook: it is the webhook that holds new pods until there is room" }}{{ end }}
{{- if and (eq .Values.admission "none") (not .Values.runtimeClass.vmInOverhead) (ne $config.kubernetes.capacity "off") }}{{ fail "admission: none leaves nothing that asks for kata.peerpods.io/vm: set runtimeClass.create and runtimeClass.vmInOverhead, or config.kubernetes.capacity: off" }}{{ end }}
{{- if and .Values.runtimeClass.vmInOverhead (not .Values.runtimeClass.create) }}{{ fail "runtimeClass.vmInOverhead needs runtimeClass.create: another's RuntimeClass is not changed from here" }}{{ end }}
{{- if and .Values.runtimeClass.vmInOverhead (eq $config.kubernetes.capacity "device-plugin") }}{{ fail "runtimeClass.vmInOverhead does not go with config.kubernetes.capacity: device-plugin: a kubelet that restarts kills every such pod" }}{{ end }}
{{- end }}
