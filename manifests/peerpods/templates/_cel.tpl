{{/*
The sizing policy's expressions. CEL has no functions, so what would be one is a template here. Amounts are whole numbers:
thousandths of a CPU, bytes, GPUs. webhook/sizes.py has the same rules and the tests compare the two.
*/}}

{{/* One container's amount of a resource. (list limits|requests CEL-of-the-name CEL-of-the-container scale) */}}
{{- define "cel.amount" -}}
{{- $kind := index . 0 }}{{ $name := index . 1 }}{{ $c := index . 2 }}{{ $scale := index . 3 -}}
(has({{ $c }}.resources) && has({{ $c }}.resources.{{ $kind }}) && {{ $name }} in {{ $c }}.resources.{{ $kind }} ? int(quantity(string({{ $c }}.resources.{{ $kind }}[{{ $name }}])).asApproximateFloat() * {{ $scale }} + 0.999) : {{ if eq $kind "requests" }}{{ include "cel.amount" (list "limits" $name $c $scale) }}{{ else }}0{{ end }})
{{- end }}

{{/* The containers' amount together, as the scheduler adds it up. (list limits|requests CEL-of-the-name scale) */}}
{{- define "cel.effective" -}}
{{- $kind := index . 0 }}{{ $name := index . 1 }}{{ $scale := index . 2 -}}
([object.spec.containers.map(c, {{ include "cel.amount" (list $kind $name "c" $scale) }}).sum() + variables.inits.filter(c, has(c.restartPolicy) && c.restartPolicy == 'Always').map(c, {{ include "cel.amount" (list $kind $name "c" $scale) }}).sum()] + variables.inits.transformList(i, x, variables.inits.transformList(j, c, j == i || (j < i && has(c.restartPolicy) && c.restartPolicy == 'Always') ? {{ include "cel.amount" (list $kind $name "c" $scale) }} : 0).sum())).max()
{{- end }}

{{/* The whole pod's: what it says itself counts before its containers. */}}
{{- define "cel.whole" -}}
{{- $kind := index . 0 }}{{ $name := index . 1 }}{{ $scale := index . 2 -}}
(has(object.spec.resources) && ((has(object.spec.resources.limits) && {{ $name }} in object.spec.resources.limits){{ if eq $kind "requests" }} || (has(object.spec.resources.requests) && {{ $name }} in object.spec.resources.requests){{ end }}) ? {{ include "cel.amount" (list $kind $name "object.spec" $scale) }} : {{ include "cel.effective" . }})
{{- end }}

{{/* A number that stands in a list of key=value, or none. (list CEL-of-the-parts key none) */}}
{{- define "cel.said" -}}
{{- $parts := index . 0 }}{{ $key := index . 1 -}}
({{ $parts }}.exists(p, p.startsWith('{{ $key }}=')) ? int({{ $parts }}.filter(p, p.startsWith('{{ $key }}='))[0].substring({{ add (len $key) 1 }})) : {{ index . 2 }})
{{- end }}

{{/* An annotation's text. */}}
{{- define "cel.annotation" -}}
('{{ . }}' in variables.annotations ? variables.annotations['{{ . }}'] : '')
{{- end }}

{{/* A patch that sets an annotation. (list key CEL-of-the-value CEL-of-the-condition) */}}
{{- define "cel.annotate" -}}
(({{ index . 2 }}) ? [JSONPatch{op: 'add', path: '/metadata/annotations/{{ index . 0 | replace "/" "~1" }}', value: {{ index . 1 }}}] : [])
{{- end }}

{{/* Patches of the resources of containers or init containers. (list containers|initContainers strip|zero) */}}
{{- define "cel.resources" -}}
{{- $field := index . 0 }}{{ $list := ternary "object.spec.containers" "variables.inits" (eq $field "containers") -}}
{{- if eq (index . 1) "strip" -}}
{{ $list }}.transformList(i, c, JSONPatch{op: 'add', path: '/spec/{{ $field }}/' + string(i) + '/resources', value: {'limits': {}, 'requests': {}}})
{{- else -}}
{{ $list }}.transformList(i, c, JSONPatch{op: 'add', path: '/spec/{{ $field }}/' + string(i) + '/resources', value: {'limits': dyn(has(c.resources) && has(c.resources.limits) ? c.resources.limits.transformMap(k, v, k in ['cpu', 'memory', 'ephemeral-storage'], string(v)) : {}), 'requests': dyn({'cpu': '0', 'memory': '0', 'ephemeral-storage': '0'})}})
{{- end }}
{{- end }}
