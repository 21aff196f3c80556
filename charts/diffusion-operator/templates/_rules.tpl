{{- /* What the operator does in a namespace that it serves. Nothing of Secrets: pods mount them by name. */}}
{{- define "diffusion-operator.rules" -}}
- apiGroups: [diffusion-operator.dev]
  resources: [diffusionpipelines, modelcaches]
  verbs: [get, list, watch]
- apiGroups: [diffusion-operator.dev]
  resources: [diffusionpipelines/status, diffusionpipelinerolescalers/status, modelcaches/status]
  verbs: [patch]
# Made, labelled and deleted: their one field belongs to whoever scales.
- apiGroups: [diffusion-operator.dev]
  resources: [diffusionpipelinerolescalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [statefulsets, controllerrevisions, daemonsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Asked to grow: they are made, and deleted, by the StatefulSets' controller.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch, create, patch]
{{- end }}

{{- /* It compares the served schema with the one it needs, when it starts. */}}
{{- define "diffusion-operator.definitionRules" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames:
    - diffusionpipelines.diffusion-operator.dev
    - diffusionpipelinerolescalers.diffusion-operator.dev
    - modelcaches.diffusion-operator.dev
  verbs: [get]
{{- end }}

{{- /* To say which RDMA resources nodes offer, when a pipeline asks for one that none has. */}}
{{- define "diffusion-operator.nodeRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
{{- end }}
