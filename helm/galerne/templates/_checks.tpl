{{/* Fails, naming the value, if values and settings do not fit each other; else empty. */}}
{{- define "galerne.checks" -}}
{{- $settings := include "galerne.settings" . | fromJson -}}
{{- $names := list -}}
{{- range .Values.pools -}}
{{- if has .name $names -}}{{- fail (printf "pools: %s is listed twice" .name) -}}{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- include "galerne.checkPoolNames" (dict "settings" $settings "names" $names) -}}
{{- range $pool := .Values.pools -}}
{{- include "galerne.checkModelsFit" (dict "pool" $pool "settings" $settings) -}}
{{- include "galerne.checkBounds" (dict "pool" $pool "settings" $settings) -}}
{{- end -}}
{{- include "galerne.checkBudget" (dict "pools" .Values.pools "settings" $settings) -}}
{{- include "galerne.checkWeights" . -}}
{{- include "galerne.checkCluster" . -}}
{{- end }}

{{/* Without a pool, gateways and engines that ask for no CPU may run on the head. */}}
{{- define "galerne.checkPoolNames" -}}
{{- $known := printf "one of pools (%s)" (join ", " .names) -}}
{{- if not (has (dig "gateway" "pool" "" .settings) .names) -}}
{{- fail (printf "settings.gateway.pool must name %s" $known) -}}
{{- end -}}
{{- range $name, $model := .settings.models -}}
{{- if not (has (dig "resources" "pool" "" $model) $.names) -}}
{{- fail (printf "settings.models.%s.resources.pool must name %s" $name $known) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A replica that fits no pod of its pool would wait for ever. */}}
{{- define "galerne.checkModelsFit" -}}
{{- $pool := .pool -}}
{{- $gpus := $pool.gpus | default 0 | int -}}
{{- range $name, $model := .settings.models -}}
{{- if eq (dig "resources" "pool" "" $model) $pool.name -}}
{{- $tensor := dig "engine" "tensor_parallel_size" 1 $model | int -}}
{{- if and (eq (dig "resources" "device" "gpu" $model) "gpu") (gt $tensor $gpus) -}}
{{- fail (printf "settings.models.%s needs %d GPUs on one node, but a pod of pool %s has gpus: %d" $name $tensor $pool.name $gpus) -}}
{{- end -}}
{{- $cores := dig "resources" "num_cpus" 1.0 $model -}}
{{- if gt (float64 $cores) (float64 $pool.resources.cpu) -}}
{{- fail (printf "settings.models.%s.resources.num_cpus is %v, but a pod of pool %s has resources.cpu: %v" $name $cores $pool.name $pool.resources.cpu) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The smallest bound on the way from an order to a GPU wins without a word; so they must agree. */}}
{{- define "galerne.checkBounds" -}}
{{- $needed := include "galerne.podsNeeded" . | int -}}
{{- $least := .pool.minReplicas | default 0 | int -}}
{{- $most := include "galerne.maxPods" . | int -}}
{{- if gt $least $most -}}
{{- fail (printf "pools: minReplicas of %s (%d) is above its maxReplicas (%d)" .pool.name $least $most) -}}
{{- end -}}
{{- if lt $most $needed -}}
{{- fail (printf "pools: maxReplicas of %s is %d, but the most replicas that settings allow its models need %d pods" .pool.name $most $needed) -}}
{{- end -}}
{{- end }}

{{- define "galerne.checkBudget" -}}
{{- $settings := .settings -}}
{{- $gpus := 0 -}}
{{- range $pool := .pools -}}
{{- $pods := include "galerne.maxPods" (dict "pool" $pool "settings" $settings) | int -}}
{{- $gpus = add $gpus (mul $pods ($pool.gpus | default 0 | int)) -}}
{{- end -}}
{{- $budget := dig "autoscaler" "gpu_budget" 0 $settings | int -}}
{{- if gt $budget $gpus -}}
{{- fail (printf "settings.autoscaler.gpu_budget is %d, but pools may have %d GPUs together" $budget $gpus) -}}
{{- end -}}
{{- end }}

{{- define "galerne.checkWeights" -}}
{{- $weights := .Values.weights -}}
{{- if and $weights.claim.existing $weights.claim.create -}}
{{- fail "weights.claim: either existing or create" -}}
{{- end -}}
{{- if not (or $weights.objectStorage.enabled $weights.claim.existing) -}}
{{- range $name, $model := (include "galerne.settings" . | fromJson).models -}}
{{- if include "galerne.isStored" $model -}}
{{- fail (printf "settings.models.%s.weights.source is in object storage: set weights.objectStorage.enabled, or weights.claim.existing to a volume that has it" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (or $weights.huggingface.enabled $weights.claim.existing) -}}
{{- range $name, $model := (include "galerne.settings" . | fromJson).models -}}
{{- if include "galerne.isRemote" $model -}}
{{- fail (printf "settings.models.%s.weights.source is fetched from a hub: set weights.huggingface.enabled, or weights.claim.existing to a volume that has it" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "galerne.checkCluster" -}}
{{- if gt (len .Release.Name) 47 -}}
{{- fail "the release's name is longer than the 47 characters that KubeRay takes" -}}
{{- end -}}
{{- if and .Values.redis.bundled.enabled .Values.redis.external.address -}}
{{- fail "redis: either bundled.enabled or external.address" -}}
{{- end -}}
{{- if and .Values.secrets.existing .Values.secrets.create -}}
{{- fail "secrets: either existing or create" -}}
{{- end -}}
{{- $asked := dig "autoscaler" "prometheus_url" "" (include "galerne.settings" . | fromJson) -}}
{{- if and $asked .Values.networkPolicy.enabled (not .Values.networkPolicy.prometheus) -}}
{{- fail "settings.autoscaler.prometheus_url is out of reach: networkPolicy.prometheus names nobody" -}}
{{- end -}}
{{- with .Values.upgradeStrategy -}}
{{- if eq .type "NewClusterWithIncrementalUpgrade" -}}
{{- if not .gatewayClassName -}}
{{- fail "upgradeStrategy.gatewayClassName is needed for NewClusterWithIncrementalUpgrade" -}}
{{- end -}}
{{- if gt (int .stepSizePercent) (int .maxSurgePercent) -}}
{{- fail (printf "upgradeStrategy.stepSizePercent (%v) is above maxSurgePercent (%v)" .stepSizePercent .maxSurgePercent) -}}
{{- end -}}
{{- if and $.Values.ingress.enabled (not $.Values.ingress.service.name) -}}
{{- fail (printf "ingress.service.name must be the service of Gateway %s-gateway: only it splits requests during an incremental upgrade" $.Release.Name) -}}
{{- end -}}
{{- if $.Values.httpRoute.enabled -}}
{{- fail "httpRoute.enabled: with NewClusterWithIncrementalUpgrade KubeRay makes Gateway and HTTPRoute itself" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
