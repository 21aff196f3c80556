{{- /* Values that each are legal but contradict each other. The schema refuses the rest. */}}
{{- define "diffusion-operator.validate" -}}
{{- with .Values }}
{{- if and (gt (int .replicas) 1) (not .leaderElection.enabled) }}
{{- fail (printf "replicas is %d, but leaderElection.enabled is false: all of them would be at work at once. Set leaderElection.enabled to true, or replicas to 1." (int .replicas)) }}
{{- end }}
{{- if and (not .serviceAccount.create) (not .serviceAccount.name) }}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty: name the ServiceAccount that the operator is to use, or set serviceAccount.create to true." }}
{{- end }}
{{- if and .monitoring.rules.enabled (eq .monitoring.operator.kind "None") }}
{{- fail "monitoring.rules.enabled is true, but monitoring.operator.kind is None: DiffusionOperatorDown would fire for ever. Set monitoring.operator.kind to ServiceMonitor or PodMonitor." }}
{{- end }}
{{- $ours := list "name" "instance" "component" "version" "part-of" "managed-by" }}
{{- $labels := dict "commonLabels" .commonLabels "podLabels" .podLabels "platform.commonLabels" .platform.commonLabels "monitoring.operator.labels" .monitoring.operator.labels "monitoring.pipelines.labels" .monitoring.pipelines.labels "monitoring.rules.labels" .monitoring.rules.labels "monitoring.dashboards.labels" .monitoring.dashboards.labels }}
{{- range $value, $given := $labels }}
{{- range $ours }}
{{- $label := printf "app.kubernetes.io/%s" . }}
{{- if hasKey $given $label }}
{{- fail (printf "%s names %s, which the chart sets by itself, and by which it finds its own objects: use another label." $value $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $value, $given := dict "platform.commonLabels" .platform.commonLabels "platform.commonAnnotations" .platform.commonAnnotations }}
{{- range $name, $_ := $given }}
{{- if hasPrefix "diffusion-operator.dev/" $name }}
{{- fail (printf "%s names %s, which is the operator's own: use another name." $value $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if hasKey .monitoring.rules.alertLabels "severity" }}
{{- fail "monitoring.rules.alertLabels names severity, which each alert sets by itself: use another label, and route by both." }}
{{- end }}
{{- $flags := dict "watch-namespaces" "watchNamespaces" "worker-image" "pipelines.workerImage" "router-image" "pipelines.routerImage" "platform-file" "platform" "max-pipelines-rolling" "pipelines.maxRolling" "leader-elect" "leaderElection.enabled" "no-leader-elect" "leaderElection.enabled" "lease-name" "fullnameOverride" "lease-seconds" "leaderElection.leaseSeconds" "concurrency" "concurrency" "resync-seconds" "resyncSeconds" "http-port" "httpPort" "log-level" "log.level" "log-format" "log.format" }}
{{- range .extraArgs }}
{{- $flag := . | trimPrefix "--" | splitList "=" | first }}
{{- if hasKey $flags $flag }}
{{- fail (printf "extraArgs names --%s, which the chart sets by itself: use the value %s instead." $flag (get $flags $flag)) }}
{{- end }}
{{- end }}
{{- range .extraEnv }}
{{- if hasPrefix "DIFFUSION_OPERATOR_" .name }}
{{- fail (printf "extraEnv names %s: set the operator up by this chart's values, or by extraArgs where there is none." .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
