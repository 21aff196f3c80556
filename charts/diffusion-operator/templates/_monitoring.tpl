{{- /* Takes (list . kind): whether the cluster has this kind of the Prometheus operator. */}}
{{- define "diffusion-operator.monitoringHas" -}}
{{- if (index . 0).Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" (index . 1)) }}yes{{ end }}
{{- end }}

{{- /* Takes the values of one monitor. honorLabels, since metrics of pipelines carry the pipeline's namespace, not the operator's. */}}
{{- define "diffusion-operator.endpoint" -}}
port: http
path: /metrics
honorLabels: true
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- end }}

{{- /* Takes (list rules-values severity). */}}
{{- define "diffusion-operator.alertLabels" -}}
severity: {{ index . 1 }}
{{- with (index . 0).alertLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
