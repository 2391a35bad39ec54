{{/* peerpods.toml: .Values.config, and what only the chart can know. */}}
{{- define "peerpods.toml" -}}
{{- $config := include "peerpods.config" . | fromJson }}
{{- range $table, $keys := $config }}
{{- if $keys }}
[{{ $table }}]
{{- range $key, $value := $keys }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "peerpods.tomlValue" $value }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}
{{- end }}

{{/* JSON's texts, numbers, truths and lists are TOML's as well; tables differ. */}}
{{- define "peerpods.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }},{{ end }} {{ $key | toJson }} = {{ include "peerpods.tomlValue" (index $ $key) }}{{ end }} }
{{- else -}}
{{ toJson . }}
{{- end }}
{{- end }}

{{- define "peerpods.config" -}}
{{- $controller := dict "webhook_certificates" (and (eq .Values.admission "webhook") (not .Values.webhook.certManager.enabled)) "webhook_configurations" (list "peerpods") }}
{{- $owned := dict
  "node" (dict "spawn_relay" false)
  "kubernetes" (dict "enabled" "on" "namespace" .Release.Namespace)
  "controller" $controller }}
{{- if ne .Values.admission "webhook" }}
{{- $_ := set $controller "offerings" false }}
{{- end }}
{{- if and (eq .Values.admission "webhook") (dig "controller" "offerings" true .Values.config) }}
{{- $_ := set $owned "webhook" (dict "offerings" "/run/peerpods/offerings/offerings.json") }}
{{- end }}
{{- if include "peerpods.hasQuota" . }}
{{- $_ := set $owned "webhook" (merge (dict "quota" true) (get $owned "webhook" | default dict)) }}
{{- end }}
{{- $config := deepCopy .Values.config }}
{{- if and .Values.monitoring.podMonitor.enabled (not (dig "http" "listen" "" $config)) }}
{{- $_ := set $owned "http" (dict "listen" ":8000") }}
{{- end }}
{{- mergeOverwrite $config $owned | toJson }}
{{- end }}

{{/* A path setting. (list . "node" "state_dir" "/var/lib/peerpods") */}}
{{- define "peerpods.path" -}}
{{- dig (index . 1) (index . 2) (index . 3) (index . 0).Values.config }}
{{- end }}

{{/* Empty unless a userspace WireGuard may be needed; then network.wireguard. */}}
{{- define "peerpods.wireguard" -}}
{{- $kind := dig "network" "wireguard" "auto" .Values.config }}
{{- if and (eq (dig "network" "encryption" "off" .Values.config) "required") (ne $kind "kernel") }}{{ $kind }}{{ end }}
{{- end }}

{{/* The adaptor's port of metrics and probes, as config.http.listen says. */}}
{{- define "peerpods.httpPort" -}}
{{- dig "http" "listen" "127.0.0.1:8000" .Values.config | toString | regexFind "[0-9]+$" }}
{{- end }}

{{/* Directories of the sockets that relay and adaptor share with kata's shim. */}}
{{- define "peerpods.runDirs" -}}
{{- list
  (include "peerpods.path" (list . "node" "hypervisor_socket" "/run/peerpod/hypervisor.sock") | dir)
  (include "peerpods.path" (list . "node" "relay_socket" "/run/peerpod/relay.sock") | dir)
  (include "peerpods.path" (list . "node" "pods_dir" "/run/peerpod/pods") | dir) | uniq | toJson }}
{{- end }}

{{/* Where kubelet finds it: on the host's network, so a wildcard is the loopback. */}}
{{- define "peerpods.httpHost" -}}
{{- $host := dig "http" "listen" "127.0.0.1:8000" .Values.config | toString | regexFind "^.*:" | trimSuffix ":" | trimAll "[]" }}
{{- if has $host (list "" "0.0.0.0" "::") }}127.0.0.1{{ else }}{{ $host }}{{ end }}
{{- end }}
