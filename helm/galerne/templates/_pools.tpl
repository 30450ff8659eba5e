{{/*
Pods of a pool that its models need at most, given {pool, settings}. A replica takes a share of a
pod: of its GPUs, those left out that are no multiple of a tensor-parallel group, or of its CPU
cores, whichever is more. Two models with odd groups may need a pod more than the sum of shares.
*/}}
{{- define "galerne.podsNeeded" -}}
{{- $pool := .pool -}}
{{- $pods := 0.0 -}}
{{- range $model := .settings.models -}}
{{- if eq (dig "resources" "pool" "" $model) $pool.name -}}
{{- $replicas := dig "scaling" "max_replicas" (dig "replicas" 1 $model) $model -}}
{{- $share := include "galerne.replicaShare" (dict "pool" $pool "model" $model) | float64 -}}
{{- $pods = addf $pods (mulf $replicas $share) -}}
{{- end -}}
{{- end -}}
{{- max 1 (round $pods 6 | ceil | int) -}}
{{- end }}

{{- define "galerne.replicaShare" -}}
{{- $tensor := dig "engine" "tensor_parallel_size" 1 .model | int -}}
{{- $stages := dig "engine" "pipeline_parallel_size" 1 .model | int -}}
{{- $cores := dig "resources" "num_cpus" 1.0 .model -}}
{{- if eq (dig "resources" "device" "gpu" .model) "cpu" -}}
{{- divf $cores .pool.resources.cpu -}}
{{- else -}}
{{- $gpus := .pool.gpus | int -}}
{{- $gpuShare := divf (mul $tensor $stages) (sub $gpus (mod $gpus $tensor)) -}}
{{- $bundles := ternary 1 (mul $tensor $stages) (eq $stages 1) -}}
{{- maxf $gpuShare (divf (mulf $cores $bundles) .pool.resources.cpu) -}}
{{- end -}}
{{- end }}

{{/* Most pods of a pool, given {pool, settings}. */}}
{{- define "galerne.maxPods" -}}
{{- with .pool.maxReplicas -}}
{{- int . -}}
{{- else -}}
{{- max (include "galerne.podsNeeded" . | int) (.pool.minReplicas | default 0 | int) -}}
{{- end -}}
{{- end }}
