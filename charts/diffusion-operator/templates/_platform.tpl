{{- /* The platform's file: what was given of .Values.platform; nothing if nothing was. */}}
{{- define "diffusion-operator.platform" -}}
{{- $given := dict }}
{{- range $name, $value := .Values.platform }}
{{- if has $name (list "caBundle" "pods" "workers" "gpuWorkers" "router") }}
{{- $section := dict }}
{{- range $key, $inner := $value }}
{{- if $inner }}{{ $_ := set $section $key $inner }}{{ end }}
{{- end }}
{{- if $section }}{{ $_ := set $given $name $section }}{{ end }}
{{- else if $value }}{{ $_ := set $given $name $value }}
{{- end }}
{{- end }}
{{- if $given }}{{ toYaml $given }}{{ end }}
{{- end }}

{{- define "diffusion-operator.platformConfigMap" -}}
{{- printf "%s-platform" (include "diffusion-operator.fullname" .) }}
{{- end }}

{{- /* Of the operator's own pods. OpenShift gives each namespace users of its own, and refuses every other. */}}
{{- define "diffusion-operator.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext }}
{{- if eq .Values.platform.securityProfile "OpenShift" }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" }}
{{- end }}
{{- with $context }}{{ toYaml . }}{{ end }}
{{- end }}
