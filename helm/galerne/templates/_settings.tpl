{{/* The platform's settings, as JSON. Helm would merge settings into defaults, so those are a file. */}}
{{- define "galerne.settings" -}}
{{- $trial := .Files.Get "files/trial-settings.yaml" | fromYaml -}}
{{- include "galerne.withoutNulls" (.Values.settings | default $trial) -}}
{{- end }}

{{/* A map as JSON without its nulls, which in settings mean the same as nothing. */}}
{{- define "galerne.withoutNulls" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $kept $key (include "galerne.withoutNulls" $value | fromJson) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $kept $key $value -}}
{{- end -}}
{{- end -}}
{{- $kept | toJson -}}
{{- end }}

{{/* Whether a model's weights are fetched from object storage, as "true" or nothing. */}}
{{- define "galerne.isStored" -}}
{{- if regexMatch "^(s3|gs|az)://" (dig "weights" "source" "demo" .) -}}true{{- end -}}
{{- end }}

{{/* Whether a model's weights are fetched from a hub, as "true" or nothing. */}}
{{- define "galerne.isRemote" -}}
{{- $source := dig "weights" "source" "demo" . -}}
{{- if not (or (eq $source "demo") (regexMatch "^(/|\\./|\\.\\./|~|[a-z0-9]+://)" $source)) -}}true{{- end -}}
{{- end }}

{{/*
Seconds that the longest stream may take to finish. At least the default of 600, so that a new model
with a shorter limit does not change pods.
*/}}
{{- define "galerne.drainSeconds" -}}
{{- $longest := 600.0 -}}
{{- range (include "galerne.settings" . | fromJson).models -}}
{{- $longest = maxf $longest (dig "drain_timeout_s" 600.0 .) -}}
{{- end -}}
{{- ceil $longest | int -}}
{{- end }}

{{/*
What Ray Serve shall run, as KubeRay gives it to Serve: JSON, which is YAML too. The same as
serve_config() of serving/planner/serve_config.py. `args` are what replicas are built from, their
change replaces them; numbers of replicas go into `deployments`, which Serve changes in place.
*/}}
{{- define "galerne.serveConfig" -}}
{{- $settings := include "galerne.settings" . | fromJson -}}
{{- $applications := list (include "galerne.gatewayApplication" $settings | fromJson) -}}
{{- range $name := keys $settings.models | sortAlpha -}}
{{- $model := dict "name" $name "settings" (get $settings.models $name) -}}
{{- $applications = append $applications (include "galerne.modelApplication" $model | fromJson) -}}
{{- end -}}
{{- $http := dict "host" "0.0.0.0" "port" 8000 -}}
{{- dict "proxy_location" "EveryNode" "http_options" $http "applications" $applications | toPrettyJson -}}
{{- end }}

{{- define "galerne.gatewayApplication" -}}
{{- $models := dict -}}
{{- range $name, $model := .models -}}
{{- $_ := set $models $name (include "galerne.modelForGateways" $model | fromJson) -}}
{{- end -}}
{{- $settings := omit . "models" "autoscaler" "gateway" -}}
{{- $_ := set $settings "models" $models -}}
{{- with omit (.gateway | default dict) "replicas" -}}
{{- $_ := set $settings "gateway" . -}}
{{- end -}}
{{- $deployment := dict "name" "gateway" "num_replicas" (dig "gateway" "replicas" 1 .) -}}
{{- dict
  "name" "galerne"
  "route_prefix" "/"
  "import_path" "serving.declared:gateways"
  "args" (dict "settings" $settings)
  "deployments" (list $deployment)
  | toJson -}}
{{- end }}

{{/* A model as gateways know it: of scaling, only whether and how they wait for a first replica. */}}
{{- define "galerne.modelForGateways" -}}
{{- $model := omit . "replicas" "scaling" -}}
{{- with .scaling -}}
{{- $scaling := pick . "wake_wait_s" "capacity" -}}
{{- $_ := set $scaling "min_replicas" (min 1 (dig "min_replicas" 1 .)) -}}
{{- $_ := set $scaling "max_replicas" 1 -}}
{{- $_ := set $model "scaling" $scaling -}}
{{- end -}}
{{- $model | toJson -}}
{{- end }}

{{- define "galerne.modelApplication" -}}
{{- $name := printf "engine:%s" .name -}}
{{- $deployment := dict "name" $name -}}
{{- if .settings.scaling -}}
{{- $_ := set $deployment "autoscaling_config" (include "galerne.scaling" . | fromJson) -}}
{{- else -}}
{{- $_ := set $deployment "num_replicas" (dig "replicas" 1 .settings) -}}
{{- end -}}
{{- $args := dict "name" .name "settings" (omit .settings "replicas" "scaling" "routing" "slo") -}}
{{- dict
  "name" $name
  "route_prefix" nil
  "import_path" "serving.declared:model"
  "args" $args
  "deployments" (list $deployment)
  | toJson -}}
{{- end }}

{{/* The policy has its own patience, so that Serve's delays are 0. */}}
{{- define "galerne.scaling" -}}
{{- $kwargs := dict "model" .name "settings_file" "/etc/galerne/settings.json" -}}
{{- $policy := dict "policy_function" "serving.serve_scaling:ModelScaling" "policy_kwargs" $kwargs -}}
{{- dict
  "min_replicas" (dig "min_replicas" 1 .settings.scaling)
  "max_replicas" .settings.scaling.max_replicas
  "upscale_delay_s" 0
  "downscale_delay_s" 0
  "downscale_to_zero_delay_s" 0
  "policy" $policy
  | toJson -}}
{{- end }}
