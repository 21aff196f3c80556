{{- /* Room for the longest suffix that is added to it: a Service's name may have 63 characters. */}}
{{- define "diffusion-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* Of objects outside namespaces: two releases of one name in two namespaces must not meet. */}}
{{- define "diffusion-operator.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "diffusion-operator.fullname" .) }}
{{- end }}

{{- define "diffusion-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "diffusion-operator.fullname" .) }}
{{- end }}

{{- define "diffusion-operator.metricsService" -}}
{{- printf "%s-metrics" (include "diffusion-operator.fullname" .) }}
{{- end }}

{{- define "diffusion-operator.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Takes (list . component). The name is constant: pipelines let the operator reach their routers by it. */}}
{{- define "diffusion-operator.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: diffusion-operator
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* Takes (list . component [further labels]). Further ones never have names of ours: see _validation.tpl. */}}
{{- define "diffusion-operator.labels" -}}
{{- $root := index . 0 }}
{{- $further := gt (len .) 2 | ternary (last .) dict }}
{{- $own := include "diffusion-operator.selectorLabels" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/version" $root.Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/part-of" "diffusion-operator" }}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") }}
{{- toYaml (merge $own $further $root.Values.commonLabels) }}
{{- end }}
